"""An S3 of our own for tests of remote stores."""

from __future__ import annotations

import fsspec
import pytest


@pytest.fixture(scope="session")
def s3():
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture
def library(made_by_library, monkeypatch):
    """(root with a finished run of the recipe ``small``, that run), made by ``da.run``; its folder of recipes
    is known for the test."""
    folder, root, run = made_by_library
    monkeypatch.setenv("DIFFADAPT_PIPELINES", str(folder))
    return root, run


@pytest.fixture(scope="session")
def made_by_library(tmp_path_factory):
    import torch

    import diffadapt as da
    from tests.cli.conftest import RECIPE

    torch.set_num_threads(1)
    folder, root = tmp_path_factory.mktemp("library recipes"), tmp_path_factory.mktemp("library root")
    (folder / "small.py").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFADAPT_PIPELINES", str(folder))
        return folder, root, da.run("small", root=root, progress=False)
