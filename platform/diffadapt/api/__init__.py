"""What ``import diffadapt as da`` gives: recipes, plans, runs, sweeps and predictions as values.

The commands of the command line call it, so that both check the same and say the same. Nothing here is
imported before it is asked for: ``diffadapt/__init__.py`` names it, ``diffadapt/__init__.pyi`` types it.
"""
