"use strict";
// Without the credentials that the page's own URL may contain: a request can't be made to a URL with credentials.
const base = location.origin + location.pathname.replace(/\/+$/, "");
const PERIOD = 2000;
const $ = (id) => document.getElementById(id);
let last = null, busy = false;
const seen = new Map();

async function request(path, body, accept) {
  const headers = { "Tidegate-Admin": "1", Accept: accept || "application/json" };
  const options = { headers, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(`${base}/api/${path}`, options);
  if (response.ok) return response;
  const text = await response.text();
  let why = text;
  try { why = JSON.parse(text).error || text; } catch { /* it is text */ }
  throw new Error(`${response.status}: ${why}`);
}

// Numbers, for people.
const whole = (n) => n == null ? "–" : Math.round(n).toLocaleString("en");
const rate = (n) => n == null || !isFinite(n) ? "–" : n >= 100 ? whole(n) : n.toFixed(1);
const share = (n) => n == null || !isFinite(n) ? "–" : `${(n * 100).toFixed(1)} %`;
const micros = (n) => n == null ? "–" : n < 1000 ? `${n} µs` : n < 1e6 ? `${(n / 1e3).toFixed(n < 1e4 ? 1 : 0)} ms` : `${(n / 1e6).toFixed(1)} s`;
const bytes = (n) => n == null ? "–" : n < 1024 ? `${n} B` : n < 1 << 20 ? `${(n / 1024).toFixed(0)} KiB` : n < 1 << 30 ? `${(n / (1 << 20)).toFixed(1)} MiB` : `${(n / (1 << 30)).toFixed(2)} GiB`;

// Histograms: pairs of a bucket's end and its count.
function quantile(counts, q) {
  const total = counts.reduce((sum, [, n]) => sum + n, 0);
  let left = Math.ceil(total * q);
  for (const [end, n] of counts) if ((left -= n) <= 0) return end;
  return null;
}
const sum = (outcomes, of) => outcomes.filter(of).reduce((sum, o) => sum + o.count, 0);
const isHit = (o) => ["hit", "collapsed", "stale"].includes(o.result);
const isLookup = (o) => o.result !== "bypass";

function cell(text, kind, tag) {
  const cell = document.createElement(tag || "td");
  if (kind) cell.className = kind;
  if (tag === "th") cell.scope = "row";
  cell.textContent = text;
  return cell;
}
function fill(table, rows, empty) {
  const body = $(table).tBodies[0];
  if (!rows.length) {
    const none = cell(empty, "soft");
    none.colSpan = 20;
    rows = [[none]];
  }
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  }));
}

// The last minute, from the intervals that the node keeps.
function lastMinute({ interval_seconds, intervals }) {
  const minute = intervals.filter((i) => i.seconds_ago < 60);
  const total = (of) => minute.reduce((sum, i) => sum + i[of], 0);
  const lookups = total("lookups");
  return {
    ratio: lookups ? total("hits") / lookups : null,
    perSecond: minute.length ? total("requests") / (minute.length * interval_seconds) : null,
  };
}

function tiles(now, minute) {
  const store = now.store;
  const stale = now.follows ? (now.staleness_ms == null ? "unknown" : `${now.staleness_ms.toFixed(0)} ms`) : "no log";
  const shared = store.shared_connected == null ? "none" : store.breaker_open ? "breaker open" : store.shared_connected ? "connected" : "not connected";
  const all = [
    [share(minute.ratio), "hit ratio, last minute"],
    [share(now.hit_ratio), "hit ratio since start"],
    [rate(minute.perSecond), "requests/s, last minute"],
    [stale, "maximum staleness"],
    [bytes(store.memory_bytes), `memory used, of ${bytes(store.memory_capacity)}`],
    [whole(store.memory_entries), "entries in memory"],
    [shared, "shared store"],
    [whole(now.loads), "fills in progress"],
  ];
  $("tiles").replaceChildren(...all.map(([value, label]) => {
    const tile = document.createElement("div"), bold = document.createElement("b"), small = document.createElement("span");
    tile.className = "tile";
    bold.textContent = value;
    small.textContent = label;
    tile.append(bold, small);
    return tile;
  }));
}

// Each line has a value for each interval, the last one at the right edge.
function draw(id, lines, top, capacity) {
  const svg = $(id), of = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const parts = [0.25, 0.5, 0.75].map((at) => {
    const line = of("line");
    for (const [name, value] of Object.entries({ x1: 0, x2: 600, y1: 160 * at, y2: 160 * at })) line.setAttribute(name, value);
    return line;
  });
  for (const [kind, values] of lines) {
    const path = of("path");
    let d = "", pen = "M";
    values.forEach((value, at) => {
      if (value == null) { pen = "M"; return; }
      d += `${pen}${(600 - (values.length - 1 - at) * 600 / (capacity - 1)).toFixed(1)},${(158 - 156 * Math.min(value / top, 1)).toFixed(1)}`;
      pen = "L";
    });
    path.setAttribute("d", d);
    path.setAttribute("class", kind);
    parts.push(path);
  }
  svg.replaceChildren(...parts);
}

function charts({ capacity, intervals }) {
  const ratio = (i) => i.lookups ? i.hits / i.lookups : null;
  draw("hits", [["served", intervals.map(ratio)]], 1, capacity);
  $("hits-top").textContent = "100 %";
  const served = intervals.map((i) => i.served_p99), computed = intervals.map((i) => i.computed_p99);
  const top = Math.max(1000, ...served, ...computed) * 1.1;
  draw("times", [["served", served], ["computed", computed]], top, capacity);
  $("times-top").textContent = micros(Math.round(top));
  const last = intervals[intervals.length - 1];
  $("hits-now").textContent = last ? share(ratio(last)) : "–";
  $("times-now").textContent = last ? `${micros(last.served_p99)} from the cache, ${micros(last.computed_p99)} by handlers` : "–";
}

function routes(now, before, seconds) {
  const known = new Map((before ? before.routes : []).map((route) => [route.pattern, route]));
  fill("routes", now.routes.map((route) => {
    const old = known.get(route.pattern);
    const all = sum(route.outcomes, () => true);
    const lookups = sum(route.outcomes, isLookup);
    const policy = !route.policy ? "none" : [
      route.policy.ttl_seconds == null ? "as headers say" : `${route.policy.ttl_seconds} s`,
      ...(route.policy.shadow ? ["in shadow"] : []),
    ].join(", ");
    const reasons = route.outcomes.filter((o) => !isHit(o)).map((o) => `${o.reason} ${whole(o.count)}`);
    const uncacheable = route.uncacheable.map((u) => `not stored: ${u.reason} ${whole(u.count)}`);
    const untracked = Object.keys(route.untracked).map((table) => `${table} (not tracked)`);
    const audited = route.audited;
    return [
      cell(route.pattern, "", "th"),
      cell(policy, route.policy ? "" : "soft"),
      cell(whole(all), "n"),
      cell(rate(old ? (all - sum(old.outcomes, () => true)) / seconds : null), "n"),
      cell(lookups ? share(sum(route.outcomes, isHit) / lookups) : "–", "n"),
      cell(micros(quantile(route.served, 0.99)), "n"),
      cell(micros(quantile(route.computed, 0.5)), "n"),
      cell([...reasons, ...uncacheable].join(", ") || "–", "wrap"),
      cell([...Object.keys(route.tables), ...untracked].join(", ") || "–", untracked.length ? "wrap bad" : "wrap"),
      audited ? cell(`${whole(audited.divergent)} of ${whole(audited.compared)} differ, at most ${share(audited.bound)}`, audited.divergent ? "bad" : "good") : cell("–", "soft"),
    ];
  }), "no request yet");
}

function servers(now, before, seconds) {
  const known = new Map((before ? before.servers : []).map((server) => [server.name, server]));
  fill("servers", now.servers.map((server) => [
    cell(server.name, "", "th"),
    cell(server.up ? server.position : "down", server.up ? "" : "bad"),
    cell(whole(server.lag_bytes), "n"),
    cell(server.lag_ms == null ? "–" : `${server.lag_ms.toFixed(0)} ms`, "n"),
    cell(whole(server.statements), "n"),
    cell(rate(known.has(server.name) ? (server.statements - known.get(server.name).statements) / seconds : null), "n"),
    cell(`${whole(server.connections)}, ${whole(server.idle_connections)} idle`, "n"),
  ]), "no database is attached to this page");
}

function changes(rows) {
  const at = new Date().toLocaleTimeString();
  const first = seen.size === 0;
  for (const { xid } of rows) if (!seen.has(xid)) seen.set(xid, first ? "before" : at);
  const present = new Set(rows.map(({ xid }) => xid));
  for (const xid of seen.keys()) if (!present.has(xid)) seen.delete(xid);
  fill("changes", rows.map(({ xid, tags }) => [
    cell(seen.get(xid), "soft"), cell(xid), cell(tags.join(", "), "wrap"),
  ]), "none in the log");
}

function show(now, history) {
  const before = last && last.now, seconds = last ? (performance.now() - last.at) / 1000 : null;
  last = { now, at: performance.now() };
  // Counts from before a restart belong to another process.
  const old = before && before.process === now.process && before.uptime_seconds <= now.uptime_seconds ? before : null;
  tiles(now, lastMinute(history));
  charts(history);
  routes(now, old, seconds);
  servers(now, old, seconds);
  $("node").textContent = `${now.version}, process ${now.process}, up ${whole(now.uptime_seconds)} s` +
    (now.epoch ? `, epoch ${now.epoch}, log seen up to ${now.seen}` : "");
  const button = $("switch");
  button.disabled = false;
  button.setAttribute("aria-pressed", String(now.off));
  button.textContent = now.off ? "Switch the cache on" : "Switch the cache off";
  alarm(now.off ? "The cache is switched off on this node: every request goes to its handler." : "");
}

function alarm(text) {
  $("alarm").hidden = !text;
  if ($("alarm").textContent !== text) $("alarm").textContent = text;
}

async function tick() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const [now, history] = await Promise.all([request("status"), request("history")]);
    show(await now.json(), await history.json());
  } catch (error) {
    alarm(`The node does not respond: ${error.message}`);
    busy = false;
    return;
  }
  try {
    changes(await (await request("changes")).json());
  } catch (error) {
    fill("changes", [], `the log can't be read: ${error.message}`);
  }
  busy = false;
}

async function showResult(id, work) {
  const place = $(id);
  place.hidden = false;
  place.textContent = "…";
  try { place.textContent = await work(); } catch (error) { place.textContent = error.message; }
}

$("switch").addEventListener("click", async () => {
  const off = !last.now.off;
  if (off && !confirm("Switch the cache off on this node? Every request then goes to its handler.")) return;
  try { await request("switch", { off }); } catch (error) { return alarm(error.message); }
  tick();
});
$("explain").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = { url: $("url").value, headers: $("headers").value };
  showResult("explained", async () => (await request("explain", query, "text/plain")).text());
});
$("invalidate").addEventListener("submit", (event) => {
  event.preventDefault();
  const tags = $("tags").value.split("\n").map((tag) => tag.trim()).filter(Boolean);
  if (!confirm(`Make ${tags.length === 1 ? tags[0] : `${tags.length} tags`} invalid on every node?`)) return;
  showResult("invalidated", async () => {
    await request("invalidate", { tags });
    return `${tags.join(", ")}: invalid from now on`;
  });
});
$("suggest").addEventListener("click", () => showResult("suggested", async () => (await request("suggest", undefined, "text/plain")).text()));
document.addEventListener("visibilitychange", tick);
setInterval(tick, PERIOD);
tick();
