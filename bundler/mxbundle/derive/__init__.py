"""Derived images: a base and wheels as one reproducible layer more, with no container runtime.

`recipe` is what people write, `layer` and `document` make the bytes, `wheels` fetches what goes in. Used by the lock,
which pins the result (`pin`), and by the build, which makes the same bytes again (`again`).
"""
