"""The pages that are made from the code, and checks of all pages.

``python -m tests.docs --write`` makes the generated pages anew.
"""
