"""The live dashboard: the report's pages over a store that grows, for this machine alone."""

import logging
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import flask
from dash import Dash, Input, Output, State, dcc, html, no_update

from bikd_dashboards.blocks import ChoiceBox
from bikd_dashboards.components import Maker, choice, named
from bikd_dashboards.downloads import FILES, OF_ONE_MODEL, csv
from bikd_dashboards.headers import QUESTION, reading
from bikd_dashboards.live import Live
from bikd_dashboards.pages import PAGES, Draw
from bikd_dashboards.runs import brief, facts
from bikd_dashboards.snapshot import Limits, Setting, SettingView, Snapshot
from bikd_dashboards.theme import DARK, LIGHT
from bikd_ray.errors import BikdError, UserError
from bikd_ray.store import Store
from bikd_ray.store.upgrade import VAL

HOST = "127.0.0.1"
EVERY_MS = 4_000
"""Between two looks at the store."""
WAITING_MS = 500
"""The same, while a page waits for its answers."""
WAIT_SECONDS = 1.5
"""Seconds that a page waits for its answers before it says that they are being worked out."""
LIMITS = Limits(matrix=600, models=10_000, pairs=1_000_000, rows=200, runs=500)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:"
)

KEPT = ("group", "metric", "set")
"""Choices that stay when a person goes to another page."""

TITLE = """(path, titles) => {
  const page = titles[(path ?? "").replaceAll("/", "") || "overview"] ?? "?";
  document.title = `${page} · ${titles.sweep} · bikd`;
  return document.title;
}"""
PACE = f"""(drawn) => drawn && drawn.at(-1) !== null ? {EVERY_MS} : {WAITING_MS}"""
COLOURS = """() => matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" """


def make_app(store: Store, metric: str | None = None, eval_set: str = VAL) -> Dash:
    """The app over one store, which it watches. It asks no network for anything.

    metric, eval_set: what is shown until somebody chooses another; see `Snapshot`.
    """
    live = Live(store, metric, eval_set)
    live.look()
    app = Dash(
        "bikd",
        assets_folder=str(Path(__file__).parent / "assets"),
        title="bikd",
        update_title="",
        suppress_callback_exceptions=True,
    )
    app.layout = _layout(store.uri)
    app.clientside_callback(COLOURS, Output("colours", "data"), Input("colours", "id"))
    app.clientside_callback(
        TITLE, Output("titled", "data"), Input("link", "pathname"), State("titles", "data")
    )

    app.clientside_callback(PACE, Output("tick", "interval"), Input("drawn", "data"))

    @app.callback(Output("seen", "data"), Input("tick", "n_intervals"))
    def look(_: int | None) -> int:
        return live.look()

    @app.callback(
        Output("head", "children"),
        Output("nav", "children"),
        Output("page", "children"),
        Output("opened", "children"),
        Output("drawn", "data"),
        Input("link", "pathname"),
        Input("link", "search"),
        Input("seen", "data"),
        Input("colours", "data"),
        State("drawn", "data"),
    )
    def draw(
        path: str, search: str, _: int, colours: str, drawn: list[Any] | None
    ) -> tuple[Any, ...]:
        live.look()
        until = time.monotonic() + WAIT_SECONDS
        number, now = live.now(WAIT_SECONDS)
        chosen = dict(parse_qsl((search or "").lstrip("?")))
        if now is None:
            return no_update, no_update, _waiting(live.error), [], None
        key = (path or "").strip("/") or "overview"
        kept = {k: v for k, v in chosen.items() if k in KEPT}
        now = _measured(now, kept)
        before = drawn or [0, "", [], "", "", None]
        setting = _setting(now, chosen, before[4])
        view = _view(now, setting)
        make = Maker(kept, DARK if colours == "dark" else LIGHT, view.names)
        page = PAGES.get(key)
        if page is None:
            return _head(now, store.uri, key), _nav("", make), _unknown(), [], None
        pair = chosen.pop("pair", "") if page.opened else ""
        shown_first = before[4] or setting.key
        wanted = [
            number,
            key,
            sorted([k, v] for k, v in chosen.items()),
            colours,
            shown_first,
            pair,
        ]
        if before == wanted:
            return (no_update,) * 5
        same_page = before[:-1] == wanted[:-1]

        def part(draw: Draw, choices: Mapping[str, str], *which: Any) -> Any:
            left = until - time.monotonic()
            return live.drawn(f"{which}", lambda: make.blocks(draw(view, choices)), left)

        blocks, opened = [], []
        try:
            if not same_page:
                blocks = part(page.draw, chosen, *wanted[:-1])
            if page.opened and pair:
                opened = part(page.opened, {"pair": pair}, *wanted)
        except BikdError as error:
            said = [*_settings(now, setting), _waiting(str(error))]
            return _head(now, store.uri, key), _nav(key, make), said, [], None
        if (blocks is None or opened is None) and before[1:] == wanted[1:]:
            return (no_update,) * 5  # what it was before stays until what it is now is drawn
        card = html.Section(opened, className="card", tabIndex=-1) if opened else []
        if opened is None:
            card, wanted = _waiting(), [*wanted[:-1], None]
        if same_page:
            return no_update, no_update, no_update, card, wanted
        if blocks is None:
            body, wanted = _waiting(), None
        else:
            body = html.Section([html.H2(page.title), *blocks], className="card")
        settings = [] if page.whole else _settings(now, setting)
        said = [*settings, body, _reading(now)]
        return _head(now, store.uri, key), _nav(key, make), said, card, wanted

    _routes(app.server, live)
    return app


def serve(store: Store, port: int, metric: str | None = None, eval_set: str = VAL) -> None:
    """Show the store until Ctrl-C. port: 0 for any free one. metric, eval_set: see `make_app`.

    Raises UserError for a port that is taken, and for a metric or set that the store lacks.
    """
    from werkzeug.serving import make_server

    store.baselines(metric, eval_set)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise UserError(f"port {port} cannot be used ({error}); give another --port") from None
        listening.listen()
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        port = listening.getsockname()[1]
        server = make_server(
            HOST,
            port,
            make_app(store, metric, eval_set).server,
            threaded=True,
            fd=listening.fileno(),
        )
        print(f"http://{HOST}:{port}/  {store.uri}  (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def _layout(uri: str) -> html.Div:
    return html.Div(
        [
            dcc.Location(id="link", refresh=False),
            dcc.Interval(id="tick", interval=EVERY_MS),
            dcc.Store(id="seen"),
            dcc.Store(id="colours"),
            dcc.Store(id="drawn"),
            dcc.Store(id="titled"),
            dcc.Store(
                id="titles",
                data={
                    "sweep": uri.rstrip("/").rpartition("/")[2],
                    **{key: page.title for key, page in PAGES.items()},
                },
            ),
            html.A("Skip to the answer", href="#page", className="skip"),
            html.Header([html.P(uri, className="sweep")], className="wrap", id="head"),
            html.Div(
                html.Div(html.Nav(id="nav", **named("Pages")), className="wrap"),
                className="bar",
            ),
            html.Main([html.Div(id="page"), html.Div(id="opened")], className="wrap"),
        ]
    )


def _head(now: Snapshot, uri: str, key: str) -> list[Any]:
    def work_out() -> tuple[tuple[str, str], ...]:
        return facts(now.baselines, now.pairs, now.jobs, now.recipes, datetime.now(UTC), now.units)

    if key != "overview":  # the other pages are about their own answers
        return [html.Div([html.P(uri, className="sweep"), html.H1(QUESTION)], className="brief")]
    told = [(t if t != "Written" else "Read", text) for t, text in now.once(("facts",), work_out)]
    return [
        html.P(uri, className="sweep"),
        html.H1(QUESTION),
        html.P(
            brief(now.baselines, now.pairs, now.jobs, now.units), className="soft small brief-facts"
        ),
        html.Details([html.Summary("What was swept"), _facts(told)], className="swept"),
    ]


def _facts(entries: list[tuple[str, str]]) -> html.Dl:
    return html.Dl(
        [
            html.Div([html.Dt(t), html.Dd(text)], className="wide" if len(text) > 60 else None)
            for t, text in entries
        ],
        className="facts",
    )


def _reading(now: Snapshot) -> html.Details:
    """What every number means, folded."""
    terms = [
        part
        for term, text in reading(now.about, now.units)
        for part in (html.Dt(term), html.Dd(text))
    ]
    return html.Details([html.Summary("How to read this"), html.Dl(terms, className="read")])


def _nav(here: str, make: Maker) -> html.Ul:
    return html.Ul(
        [
            html.Li(
                dcc.Link(
                    page.title,
                    href=make.link("" if key == "overview" else key, {}),
                    className="here" if key == here else "",
                )
            )
            for key, page in PAGES.items()
        ]
    )


def _settings(now: Snapshot, setting: Setting) -> list[Any]:
    known = now.store.metrics.get(setting.data_id, ())
    sets = now.store.eval_sets()
    boxes = (
        ChoiceBox(
            "group", "Setting", tuple((s.key, now.labels[s.key]) for s in now.settings), setting.key
        ),
        ChoiceBox(
            "metric",
            "Metric",
            tuple((m.name, m.title) for m in known),
            now.measure["metric"] or (known[0].name if known else ""),
        ),
        ChoiceBox("set", "On", tuple((name, name) for name in sets), now.measure["eval_set"]),
    )
    several = [choice(box) for box in boxes if len(box.options) > 1]
    return [html.Div(several, className="choices")] if several else []


def _measured(now: Snapshot, chosen: Mapping[str, str]) -> Snapshot:
    """The store by the metric and on the set of the link, where it has them."""
    metric = chosen.get("metric") or now.measure["metric"]
    eval_set = chosen.get("set") or now.measure["eval_set"]
    names = {m.name for found in now.store.metrics.values() for m in found}
    return now.measured(
        metric if metric in names else None,
        eval_set if eval_set in now.store.eval_sets() else VAL,
    )


def _setting(now: Snapshot, chosen: Mapping[str, str], shown_first: str) -> Setting:
    """The one of the link; else the one that was shown first, which stays while a sweep goes on;
    else the one with the clearest verdict.
    """
    known = {s.key: s for s in now.settings}
    nothing = Setting("", None, None, "last")
    found = known.get(chosen.get("group", "")) or known.get(shown_first)
    return found or now.opening or nothing


def _view(now: Snapshot, setting: Setting) -> SettingView:
    return now.once(("view", setting), lambda: SettingView(now, setting, LIMITS))


def _waiting(error: str = "") -> html.Section:
    text = error or "Reading the store and working out its answers …"
    return html.Section(html.P(text, className="verdict"), className="card")


def _unknown() -> html.Section:
    return html.Section(html.P("There is no such page.", className="verdict"), className="card")


def _routes(server: flask.Flask, live: Live) -> None:
    @server.before_request
    def ours() -> None:
        # a page elsewhere whose name was turned to this machine must not read the results
        if urlsplit(f"//{flask.request.host}").hostname not in (HOST, "localhost", "::1"):
            flask.abort(403)

    @server.after_request
    def closed(response: flask.Response) -> flask.Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    @server.get("/csv/<name>.csv")
    def download(name: str) -> flask.Response:
        _, now = live.now(wait=60.0)
        now = now and _measured(now, flask.request.args)
        model = flask.request.args.get("model", "")
        if now is None or not (name in FILES or (name in OF_ONE_MODEL and model)):
            flask.abort(404)
        try:
            table = OF_ONE_MODEL[name](now, model) if model else FILES[name].table(now)
        except UserError:
            flask.abort(404)
        return flask.Response(csv(table), mimetype="text/csv")
