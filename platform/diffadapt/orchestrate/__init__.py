"""The only folder that imports Ray: starting or joining it, the actor pool, training groups, and the runner
over them."""
