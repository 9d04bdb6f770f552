from diffadapt.api.datasets import from_dataset as from_dataset
from diffadapt.api.images import Images as Images
from diffadapt.api.images import Picture as Picture
from diffadapt.api.plan import Plan as Plan
from diffadapt.api.plan import plan as plan
from diffadapt.api.predict import predict as predict
from diffadapt.api.recipe import Recipe as Recipe
from diffadapt.api.recipe import recipe as recipe
from diffadapt.api.run import Report as Report
from diffadapt.api.run import Run as Run
from diffadapt.api.run import Runs as Runs
from diffadapt.api.run import run as run
from diffadapt.api.run import runs as runs
from diffadapt.api.sweep import Sweep as Sweep
from diffadapt.api.sweep import sweep as sweep
from diffadapt.core.errors import DiffadaptError as DiffadaptError

__version__: str
