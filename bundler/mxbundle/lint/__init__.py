"""What must hold for rendered objects, said before anything is built: rules, what they look at, what they find.

Not here: whether images exist (the lock), or whether a site fits (preflight).
"""
