"use strict";
/* Charts. The inputs of a .chart choose its axes and series; the SVG is drawn again at every choice and width. */

const asinh = (unit) => ({ to: (v) => Math.asinh(v / unit), back: (v) => Math.sinh(v) * unit });
const scaleOf = (axis) => ({
  linear: () => ({ to: (v) => v, back: (v) => v, ticks: linearTicks }),
  log: () => ({ to: Math.log, back: Math.exp, ticks: (low, high) => decades(low, high, [1, 2, 5]) }),
  log2: () => ({ to: Math.log2, back: (v) => 2 ** v, ticks: octaves }),
  asinh: () => ({ ...asinh(axis.linear), ticks: (low, high) => signedDecades(low, high, axis.linear) }),
})[axis.scale]();

function linearTicks(low, high) {
  const raw = (high - low) / 7, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power, ticks = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) ticks.push(+v.toPrecision(10));
  return ticks;
}

function decades(low, high, digits) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const digit of digits) ticks.push(+(digit * 10 ** e).toPrecision(3));
  return ticks.filter((v) => v >= low && v <= high);
}

function octaves(low, high) {
  const ticks = [];
  for (let e = Math.ceil(Math.log2(low)); e <= Math.log2(high); e++) ticks.push(2 ** e);
  return ticks;
}

function signedDecades(low, high, unit) {
  if (high - low < 4 * unit) return linearTicks(low, high);
  const above = decades(unit, Math.max(unit, -low, high), [1, 2, 5]);
  return [...above.map((v) => -v).reverse(), 0, ...above].filter((v) => v >= low && v <= high);
}

/* Three or four digits; tiny and huge numbers as powers of ten. */
function neat(v) {
  const size = Math.abs(v);
  if (v === 0 || (size >= 0.001 && size < 1e5)) return String(size >= 1000 ? Math.round(v) : +v.toPrecision(4)).replace("-", "−");
  return v.toExponential(1).replace("-", "−");
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.data = JSON.parse(figure.querySelector("script").textContent);
    this.plot = figure.querySelector(".plot");
    this.svg = figure.querySelector(".plot svg");
    this.tip = figure.querySelector(".tip");
    this.boxes = [...figure.querySelectorAll(".legend input")];
    figure.addEventListener("change", () => this.draw());
    this.plot.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    this.plot.addEventListener("pointerdown", (event) => this.point(this.nearest(event)));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    this.plot.addEventListener("blur", () => this.point(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
    const resize = () => { if (this.plot.clientWidth !== this.width) this.draw(); };
    new ResizeObserver(() => requestAnimationFrame(resize)).observe(this.plot);
    window.addEventListener("beforeprint", () => this.draw());
    this.draw();  // the observer waits for a frame, which a page in the background does not get
  }

  axis(side) {
    const chosen = this.figure.querySelector(`[name="${this.figure.id}-${side}"]:checked`);
    return this.data[side].find((axis) => chosen && axis.name === chosen.value) || this.data[side][0];
  }

  /* Spots are the points that are shown, with their place in pixels, series by series from left to right. */
  draw() {
    const x = (this.x = this.axis("x")), y = (this.y = this.axis("y"));
    this.caption(x, y);
    this.spots = this.boxes.flatMap((box, s) => !box.checked ? [] : this.data.series[s].points
      .map((p, i) => ({ s, i, p, x: p.values[x.name], y: p.values[y.name], ci: p.ci[y.name] || 0 }))
      .filter((spot) => spot.x !== undefined && spot.y !== undefined).sort((a, b) => a.x - b.x));
    this.at = null;
    this.tip.classList.remove("shown");
    this.width = this.plot.clientWidth;
    this.height = this.spots.length ? Math.round(Math.min(460, Math.max(270, this.width * 0.44))) : 60;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    if (!this.spots.length) { this.svg.innerHTML = `<text x="0" y="34">No series has values for this choice.</text>`; return; }
    const grid = this.scales(x, y);
    for (const spot of this.spots) [spot.left, spot.top] = [this.X(spot.x), this.Y(spot.y)];
    this.svg.innerHTML = grid + this.front() + this.links() + this.curves() + `<circle class="ring" r="9" visibility="hidden"/>`;
    if (this.data.label) this.label(this.data.label.name);
  }

  caption(x, y) {
    for (const axis of [x, y]) {
      const title = axis.label + (axis.unit ? ` / ${axis.unit}` : "");
      this.figure.querySelector(`.axis.${axis === x ? "x" : "y"}`).textContent = title + (axis.about ? `, ${axis.about}` : "");
    }
    this.boxes.forEach((box, s) => {
      box.parentElement.querySelector("small").hidden = !this.data.series[s].perfect.includes(y.name);
    });
  }

  /* Sets X and Y, from values to pixels, and returns the grid. */
  scales(x, y) {
    const range = (values, scale, share) => {
      const ends = [Math.min(...values), Math.max(...values)].map(scale.to);
      const margin = (ends[1] - ends[0]) * share || Math.abs(ends[1]) * 0.05 || 1;
      return [ends[0] - margin, ends[1] + margin];
    };
    const sx = scaleOf(x), sy = scaleOf(y), { width, height } = this;
    const [x0, x1] = range(this.spots.map((s) => s.x), sx, 0.05), [y0, y1] = range(this.spots.map((s) => s.y), sy, 0.07);
    const rows = sy.ticks(sy.back(y0), sy.back(y1)), columns = sx.ticks(sx.back(x0), sx.back(x1));
    const box = { left: 14 + 7.5 * Math.max(...rows.map((v) => neat(v).length), 1), right: width - 12, top: 8, bottom: height - 28 };
    const place = (v, low, high, from, to) => from + (to - from) * (v - low) / (high - low);
    const [from, to] = x.reversed ? [box.right, box.left] : [box.left, box.right];
    this.X = (v) => place(sx.to(v), x0, x1, from, to);
    this.Y = (v) => place(sy.to(v), y0, y1, box.bottom, box.top);
    this.box = box;
    let svg = "", ends = [], above = Infinity;
    for (const v of rows) {
      svg += `<line class="grid" x1="${box.left}" x2="${box.right}" y1="${this.Y(v)}" y2="${this.Y(v)}"/>`;
      if (above - this.Y(v) < 18) continue;
      svg += `<text x="${box.left - 8}" y="${this.Y(v) + 4}" text-anchor="end">${neat(v)}</text>`;
      above = this.Y(v);
    }
    for (const v of columns) {
      const middle = this.X(v), half = 3.8 * neat(v).length + 6;
      svg += `<line class="grid" x1="${middle}" x2="${middle}" y1="${box.top}" y2="${box.bottom}"/>`;
      if (ends.some((other) => Math.abs(other.middle - middle) < other.half + half)) continue;
      svg += `<text x="${middle}" y="${box.bottom + 20}" text-anchor="middle">${neat(v)}</text>`;
      ends.push({ middle, half });
    }
    return svg + `<line class="base" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`;
  }

  frontPoints() {
    const front = this.data.fronts.find((one) => one.x === this.x.name && one.y === this.y.name);
    return front ? front.points : [];
  }

  /* Steps behind the curves: the best value at a rate and all lower ones. */
  front() {
    const shown = this.frontPoints().map(([s, i]) => this.spots.find((spot) => spot.s === s && spot.i === i)).filter(Boolean);
    if (!shown.length) return "";
    const steps = shown.slice(1).map((spot) => `H${spot.left.toFixed(1)}V${spot.top.toFixed(1)}`).join("");
    return `<path class="front" d="M${shown[0].left.toFixed(1)} ${shown[0].top.toFixed(1)}${steps}H${this.box.right}"/>`;
  }

  links() {
    const find = ([s, i]) => this.spots.find((spot) => spot.s === s && spot.i === i);
    return this.data.links.map((ends) => ends.map(find)).filter(([a, b]) => a && b).map(([a, b]) =>
      `<line class="link" x1="${a.left}" y1="${a.top}" x2="${b.left}" y2="${b.top}"/>`).join("");
  }

  curves() {
    const clamp = (v) => Math.min(this.box.bottom, Math.max(this.box.top, this.Y(v)));
    return [...new Set(this.spots.map((spot) => spot.s))].map((s) => {
      const mine = this.spots.filter((spot) => spot.s === s), { color, marker, dash } = this.data.series[s].style;
      const bars = mine.filter((spot) => spot.ci).map((spot) =>
        `<line class="bar" x1="${spot.left}" x2="${spot.left}" y1="${clamp(spot.y - spot.ci)}" y2="${clamp(spot.y + spot.ci)}"/>`);
      const path = mine.map((spot) => `${spot.left.toFixed(1)} ${spot.top.toFixed(1)}`).join("L");
      const curve = `<path class="stroke${marker ? "" : " thin"}" d="M${path}" stroke-dasharray="${dash.map((length) => 2 * length).join(" ")}"/>`;
      const marks = !marker ? [] : mine.map((spot) => `<use href="#mark-${marker}" x="${spot.left - 7}" y="${spot.top - 7}" width="14" height="14"/>`);
      return `<g data-series="${s}" style="color:${color}">${bars.join("")}${curve}${marks.join("")}</g>`;
    }).join("");
  }

  /* A value beside each point, where no other label and no point is. */
  label(name) {
    const taken = this.spots.map((s) => [s.left - 6, s.top - 6, s.left + 6, s.top + 6]), { box } = this;
    const free = ([l, t, r, b]) => l >= box.left && r <= box.right && t >= 0 && b <= box.bottom &&
      !taken.some(([l2, t2, r2, b2]) => l < r2 && r > l2 && t < b2 && b > t2);
    let svg = "";
    for (const { p, left, top } of this.spots) {
      if (p.values[name] === undefined) continue;
      const text = String(+p.values[name].toPrecision(2)), w = 7 * text.length + 2, h = 14;
      const places = [[7, -17], [-7 - w, -17], [7, 4], [-7 - w, 4], [-w / 2, -22], [-w / 2, 9]];
      const spot = places.map(([dx, dy]) => [left + dx, top + dy, left + dx + w, top + dy + h]).find(free);
      if (!spot) continue;
      taken.push(spot);
      svg += `<text class="value" x="${spot[0] + 1}" y="${spot[3] - 3}">${text}</text>`;
    }
    this.svg.insertAdjacentHTML("beforeend", svg);
  }

  nearest(event) {
    const area = this.plot.getBoundingClientRect();
    const away = (spot) => Math.hypot(spot.left - event.clientX + area.left, spot.top - event.clientY + area.top);
    const best = this.spots.reduce((a, b) => (a && away(a) <= away(b) ? a : b), null);
    return best && away(best) < 48 ? best : null;
  }

  /* Left and right move along a series, up and down to the nearest point of the next one. */
  step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key], { spots } = this;
    if (event.key === "Escape") this.point(null);
    if (!move || !spots.length) return;
    event.preventDefault();
    if (!this.at) return this.point(spots[0]);
    const onward = this.x.reversed ? -move : move;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const next = spots[spots.indexOf(this.at) + onward];
      return this.point(next && next.s === this.at.s ? next : this.at);
    }
    const series = [...new Set(spots.map((spot) => spot.s))], s = series[(series.indexOf(this.at.s) + move + series.length) % series.length];
    this.point(spots.filter((spot) => spot.s === s).reduce((a, b) => Math.abs(a.left - this.at.left) <= Math.abs(b.left - this.at.left) ? a : b));
  }

  /* Shows the values of a point, and fades the other series. */
  point(spot) {
    if (spot === this.at) return;
    this.at = spot;
    const ring = this.svg.querySelector(".ring");
    this.tip.classList.toggle("shown", !!spot);
    this.svg.classList.toggle("pointed", !!spot);
    this.svg.querySelectorAll("[data-series]").forEach((g) => g.classList.toggle("on", !!spot && +g.dataset.series === spot.s));
    if (!ring) return;
    ring.setAttribute("visibility", spot ? "visible" : "hidden");
    if (!spot) return;
    ring.setAttribute("cx", spot.left);
    ring.setAttribute("cy", spot.top);
    const row = (axis) => spot.p.values[axis.name] === undefined ? [] : [[neat(spot.p.values[axis.name]) +
      (spot.p.ci[axis.name] ? ` ± ${neat(spot.p.ci[axis.name])}` : ""), `${axis.unit} ${axis.label}`.trim()]];
    const axes = [this.y, this.x, ...this.data.x.filter((axis) => axis.scale === "log" && axis !== this.x)];
    if (this.data.label) axes.push(this.data.label);
    const best = this.frontPoints().some(([s, i]) => s === spot.s && i === spot.i);
    const lines = [[this.data.series[spot.s].name, spot.p.text], ...axes.flatMap(row), ...(best ? [["◆", "on the Pareto front"]] : [])];
    this.tip.replaceChildren(...lines.map(([strong, soft]) => {
      const line = document.createElement("span"), bold = document.createElement("b");
      bold.textContent = strong;
      line.append(bold, ` ${soft}`);
      return line;
    }));
    const left = Math.min(spot.left + 16, this.width - this.tip.offsetWidth), above = spot.top - this.tip.offsetHeight - 14;
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${above > -40 ? above : spot.top + 16}px`;
  }
}
document.querySelectorAll(".chart").forEach((figure) => new Chart(figure));
