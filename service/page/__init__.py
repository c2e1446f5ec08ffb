"""The page at `/`: the runs, what was served of them, and the bags of any step as text, for people.

`service.api.app` adds it. `page.html` is package data: `page` finds it through `importlib.resources`, so it must stay
in this folder and in the wheel. The text of a dataset can be anything, also HTML: the page treats it as text only, and
its Content-Security-Policy allows no script but its own.
"""
