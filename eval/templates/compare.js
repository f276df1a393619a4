"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const esc = (s) => String(s).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const neat = (x) => (x >= 100 ? x.toFixed(0) : String(+x.toPrecision(3)));

/* Curves, redrawn at every choice and width. */
const charts = data.charts, state = { modality: Object.keys(charts)[0], hidden: new Set() };

function group(label, options, key) {
  if (options.length < 2) return "";
  const buttons = options.map(([value, text]) =>
    `<button type="button" data-key="${key}" data-value="${esc(value)}" aria-pressed="${state[key] === value}">${esc(text)}</button>`);
  return `<div class="group">${label && `<span>${label}</span>`}${buttons.join("")}</div>`;
}

function controls() {
  const chart = charts[state.modality], names = chart.metrics.map((m) => m.name);
  if (!names.includes(state.metric)) state.metric = names[0];
  if (!chart.kinds.includes(state.kind)) state.kind = chart.kinds.includes("coded") ? "coded" : chart.kinds[0];
  const words = { image: "Images", audio: "Sounds" };
  $("controls").innerHTML =
    group("", Object.keys(charts).map((m) => [m, words[m]]), "modality") +
    group("Metric", chart.metrics.map((m) => [m.name, m.label]), "metric") +
    group("Rate", chart.kinds.map((k) => [k, k]), "kind");
  const exact = (codec) => chart.points.some((p) => p.codec === codec && p.perfect.includes(state.metric));
  $("legend").innerHTML = [...new Set(chart.points.map((p) => p.codec))].map((codec) =>
    `<button type="button" data-codec="${esc(codec)}" aria-pressed="${!state.hidden.has(codec)}">` +
    `<i class="dot" style="background:${data.colors[codec]}"></i>${esc(codec)}${exact(codec) ? ", exact: ∞" : ""}</button>`).join("");
}

function ticks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power, out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) out.push(+v.toPrecision(10));
  return out;
}

function logTicks(low, high) {
  const all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) all.push(+(m * 10 ** e).toPrecision(3));
  return all;
}

function signedTicks(low, high) {
  const above = [0, ...logTicks(1, Math.max(1, Math.abs(low), high)).filter((v) => /^1/.test(v))];
  return [...above.slice(1).map((v) => -v), ...above].filter((v) => v >= low && v <= high);
}

let marks = [];
function draw() {
  const chart = charts[state.modality], metric = chart.metrics.find((m) => m.name === state.metric);
  const width = Math.max(300, $("plot").clientWidth), height = Math.round(Math.min(480, Math.max(300, width * 0.46)));
  const box = { left: 52, right: width - 14, top: 26, bottom: height - 44 };
  const points = chart.points.filter((p) => !state.hidden.has(p.codec) && p.rates[state.kind] > 0 && p.values[metric.name] != null)
    .map((p) => ({ p, rate: p.rates[state.kind], value: p.values[metric.name], ci: p.ci[metric.name] || 0 }));
  if (!points.length) { $("plot").innerHTML = "<p class='note'>No codec has values for this choice.</p>"; marks = []; return; }
  let [x0, x1] = [Math.min(...points.map((q) => q.rate)), Math.max(...points.map((q) => q.rate))];
  let [y0, y1] = [Math.min(...points.map((q) => q.value)), Math.max(...points.map((q) => q.value))];
  [x0, x1] = [x0 / 1.15, x1 * 1.15];
  const decades = y1 > 50 && y0 < y1 / 50;  // distances between sets span orders of magnitude and can be negative
  const scaled = decades ? Math.asinh : (v) => v, back = decades ? Math.sinh : (v) => v;
  [y0, y1] = [scaled(y0), scaled(y1)];
  const margin = (y1 - y0) * 0.07 || Math.abs(y1) * 0.05 || 1;
  [y0, y1] = [y0 - margin, y1 + margin];
  const X = (r) => box.left + (box.right - box.left) * Math.log(r / x0) / Math.log(x1 / x0);
  const Y = (v) => box.bottom - (box.bottom - box.top) * (scaled(v) - y0) / (y1 - y0);
  const clampY = (v) => Math.min(box.bottom, Math.max(box.top, Y(v)));
  let svg = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${esc(metric.label)} over ${esc(state.kind)} rate">`;
  for (const v of decades ? signedTicks(back(y0), back(y1)) : ticks(y0, y1, 5))
    svg += `<line class="grid" x1="${box.left}" x2="${box.right}" y1="${Y(v)}" y2="${Y(v)}"/><text x="${box.left - 8}" y="${Y(v) + 4}" text-anchor="end">${+v.toFixed(4)}</text>`;
  let last = -99;
  for (const r of logTicks(x0, x1)) {
    svg += `<line class="grid" x1="${X(r)}" x2="${X(r)}" y1="${box.top}" y2="${box.bottom}"/>`;
    if (X(r) - last > 40) { svg += `<text x="${X(r)}" y="${box.bottom + 18}" text-anchor="middle">${r}</text>`; last = X(r); }
  }
  svg += `<line class="axis" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`;
  svg += `<text x="${box.right}" y="${height - 6}" text-anchor="end">${esc(chart.unit)}, ${esc(state.kind)}</text>`;
  svg += `<text x="0" y="13">${esc(metric.label)}${metric.unit ? " / " + esc(metric.unit) : ""}, ${metric.better} is better</text>`;
  marks = [];
  for (const codec of new Set(points.map((q) => q.p.codec))) {
    const mine = points.filter((q) => q.p.codec === codec).sort((a, b) => a.rate - b.rate), color = data.colors[codec];
    for (const q of mine) if (q.ci)
      svg += `<line x1="${X(q.rate)}" x2="${X(q.rate)}" y1="${clampY(q.value - q.ci)}" y2="${clampY(q.value + q.ci)}" stroke="${color}" opacity=".28"/>`;
    svg += `<polyline points="${mine.map((q) => `${X(q.rate).toFixed(1)},${Y(q.value).toFixed(1)}`).join(" ")}" fill="none" stroke="${color}" stroke-width="2" stroke-linejoin="round"/>`;
    for (const q of mine) {
      svg += `<circle cx="${X(q.rate)}" cy="${Y(q.value)}" r="${mine.length === 1 ? 6.5 : 4}" fill="${color}" stroke="var(--card)" stroke-width="1.5"/>`;
      marks.push({ x: X(q.rate), y: Y(q.value), q, metric });
    }
  }
  $("plot").innerHTML = svg + `<circle id="ring" r="8" fill="none" stroke="var(--ink)" stroke-width="1.5" visibility="hidden"/></svg><div class="tip" id="tip"></div>`;
}

function hover(event) {
  const svg = $("plot").querySelector("svg"), tip = $("tip");
  if (!svg || !tip) return;
  const area = svg.getBoundingClientRect(), x = event.clientX - area.left, y = event.clientY - area.top;
  const near = marks.map((m) => ({ m, d: Math.hypot(m.x - x, m.y - y) })).sort((a, b) => a.d - b.d)[0];
  const ring = $("ring");
  if (!near || near.d > 60) { tip.style.opacity = 0; ring.setAttribute("visibility", "hidden"); return; }
  const { q, metric } = near.m, chart = charts[state.modality];
  const rates = chart.kinds.filter((k) => q.p.rates[k]).map((k) => `${neat(q.p.rates[k])} <span>${esc(chart.unit)} ${esc(k)}</span>`);
  tip.innerHTML = `<b>${esc(q.p.codec)}</b><span>${esc(q.p.setting)}${q.p.setting ? ", " : ""}${q.p.n} items</span><br>` +
    `${q.value.toFixed(3)}${q.ci ? ` ±${q.ci.toFixed(3)}` : ""} <span>${esc(metric.label)} ${esc(metric.unit)}</span><br>${rates.join("<br>")}`;
  tip.style.opacity = 1;
  tip.style.left = `${Math.max(0, Math.min(near.m.x + 14, area.width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, near.m.y - tip.offsetHeight - 12)}px`;
  for (const [name, value] of [["cx", near.m.x], ["cy", near.m.y], ["visibility", "visible"]]) ring.setAttribute(name, value);
}

if (state.modality) {
  const redraw = () => { controls(); draw(); };
  $("controls").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) { state[button.dataset.key] = button.dataset.value; redraw(); }
  });
  $("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button"), codec = button && button.dataset.codec;
    if (button) { state.hidden.has(codec) ? state.hidden.delete(codec) : state.hidden.add(codec); redraw(); }
  });
  $("plot").addEventListener("pointermove", hover);
  $("plot").addEventListener("pointerdown", hover);
  $("plot").addEventListener("pointerleave", () => { if ($("tip")) $("tip").style.opacity = 0; });
  let before = 0;
  new ResizeObserver(() => { const w = $("plot").clientWidth; if (w !== before) { before = w; draw(); } }).observe($("plot"));
  redraw();
}

/* A magnifier over all tiles of an image. */
const ZOOM = 4;
document.querySelectorAll(".exhibit .tiles:not(.sounds)").forEach((tiles) => {
  const frames = [...tiles.querySelectorAll(".frame:not(.empty)")];
  let at = [0.5, 0.5];
  const show = () => frames.forEach((frame) => {
    const lens = frame.querySelector(".lens"), w = frame.clientWidth, h = frame.clientHeight;
    lens.style.display = "block";
    if (!lens.style.backgroundImage) lens.style.backgroundImage = `url(${frame.querySelector("img").src})`;
    const s = lens.clientWidth, x = at[0] * w, y = at[1] * h;
    lens.style.backgroundSize = `${w * ZOOM}px ${h * ZOOM}px`;
    lens.style.backgroundPosition = `${s / 2 - x * ZOOM}px ${s / 2 - y * ZOOM}px`;
    lens.style.left = `${Math.max(0, Math.min(w - s - 4, x - s / 2))}px`;
    lens.style.top = `${Math.max(0, Math.min(h - s - 4, y - s / 2))}px`;
  });
  const hide = () => frames.forEach((frame) => { frame.querySelector(".lens").style.display = "none"; });
  frames.forEach((frame) => {
    const move = (event) => {
      const area = frame.getBoundingClientRect();
      at = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
      show();
    };
    frame.addEventListener("pointermove", move);
    frame.addEventListener("pointerdown", move);
    frame.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    frame.addEventListener("blur", hide);
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.04, 0], ArrowRight: [0.04, 0], ArrowUp: [0, -0.04], ArrowDown: [0, 0.04] }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      at = at.map((v, i) => Math.min(1, Math.max(0, v + step[i])));
      show();
    });
  });
  document.addEventListener("pointerdown", (event) => { if (!tiles.contains(event.target)) hide(); });
});

/* One sound plays at a time; another version of the same clip continues at its position. */
document.querySelectorAll(".tiles.sounds").forEach((tiles) => {
  const players = [...tiles.querySelectorAll("audio")];
  players.forEach((player) => player.addEventListener("play", () => {
    const other = players.find((p) => p !== player && !p.paused);
    document.querySelectorAll("audio").forEach((p) => { if (p !== player) p.pause(); });
    if (other && other.currentTime < player.duration - 0.05) player.currentTime = other.currentTime;
  }));
});

/* Tables: a click on a heading sorts, the search field filters. */
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.children[column].dataset.sort, numeric = column > 0;
    const rows = [...body.rows].sort((a, b) => {
      const [p, q] = [key(a), key(b)];
      if (p === "" || q === "") return (p === "") - (q === "");
      return (numeric ? p - q : p.localeCompare(q)) * (down ? -1 : 1);
    });
    body.append(...rows);
  }));
});
$("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  document.querySelectorAll("table.sortable tbody tr").forEach((row) => {
    const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  });
});
