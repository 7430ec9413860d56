"""The live view of a server: `slipstream ui`, in the terminal or as a web page. It reads only.

    app, screens, rows     what is shown, with textual; rows: a list of any length, of which only what is seen is drawn
    following              the keys of a store, live
    watchers, compare      who watches, and how far behind; which keys of two stores differ
    web, visitor           the same app for browsers, behind a token; the app of one of them

Pure: `index` (the keys that are there), `values` (a value for people, and what differs between two), `claims` (who
holds what), `lines` (states).
"""
