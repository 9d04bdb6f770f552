"""Found by file (see base.py); DIFFADAPT_PROMPTS names folders of one's own with a sub-folder backends."""

from diffadapt.core.discover import extend

extend(__path__, "DIFFADAPT_PROMPTS", "backends")
