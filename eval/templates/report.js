"use strict";
/* Galleries: a tile shows one stop of its codec's slider; a click opens two pictures with a divider. */

class Tile {
  constructor(figure) {
    this.figure = figure;
    this.codec = figure.dataset.codec;
    this.title = figure.closest(".exhibit").dataset.title;
    this.picture = figure.querySelector("img");
    this.player = figure.querySelector("audio");
    this.slider = figure.querySelector("input");
    this.stops = JSON.parse(figure.querySelector("script").textContent);
    this.at = +figure.dataset.start;
    const shown = this.stops[this.at];  // is in the page already
    if (this.player) [shown.uri, shown.spectrogram] = [this.player.src, this.picture.src];
    else shown.uri = this.picture.src;
    if (this.slider) this.slider.addEventListener("input", () => this.show(+this.slider.value));
  }

  show(at) {
    this.at = at;
    const stop = this.stops[at], label = [this.codec, stop.title, this.title].filter(Boolean).join(", ");
    this.picture.src = stop.spectrogram || stop.uri;
    if (this.player) this.play(stop.uri, label);
    else this.picture.alt = label;
    this.slider.value = at;
    this.slider.setAttribute("aria-valuetext", [stop.title, stop.setting].filter(Boolean).join(", "));
    this.figure.querySelector(".rate").textContent = stop.title;
    this.figure.querySelector(".figures").replaceChildren(...[stop.setting, ...stop.lines].filter(Boolean).map((line) => {
      const span = document.createElement("span");
      span.textContent = line;
      return span;
    }));
    const remark = this.figure.querySelector(".remark");
    if (remark) remark.hidden = at !== +this.figure.dataset.start;
  }

  /* Another setting goes on at the same position. */
  play(uri, label) {
    const { currentTime, paused } = this.player;
    this.player.setAttribute("aria-label", label);
    this.player.src = uri;
    this.player.currentTime = currentTime;
    if (!paused) this.player.play();
  }
}

class Viewer {
  constructor(dialog) {
    this.dialog = dialog;
    this.stage = dialog.querySelector(".stage");
    this.swipe = dialog.querySelector(".swipe");
    this.sides = [...dialog.querySelectorAll(".side")].map((side) => ({
      choice: side.querySelector("select"), slider: side.querySelector("input"), text: side.querySelector("output"),
      picture: dialog.querySelector(`img.${side.dataset.side}`),
    }));
    this.swipe.addEventListener("input", () => this.stage.style.setProperty("--cut", `${this.swipe.value}%`));
    for (const side of this.sides) {
      side.choice.addEventListener("change", () => this.choose(side, +side.choice.value));
      side.slider.addEventListener("input", () => this.show(side));
    }
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  /* The original on the left, or beside itself the first codec on the right. */
  open(tiles, tile) {
    this.tiles = tiles;
    this.dialog.querySelector("h2").textContent = tile.title;
    const [width, height] = ["width", "height"].map((name) => +tile.picture.getAttribute(name));
    this.stage.style.setProperty("--shape", width / height);
    this.stage.classList.toggle("small", width < 200);
    for (const side of this.sides) {
      side.choice.replaceChildren(...tiles.map((other, i) => new Option(other.codec, i)));
    }
    const at = tiles.indexOf(tile);
    this.choose(this.sides[0], 0);
    this.choose(this.sides[1], at || Math.min(1, tiles.length - 1));
    this.swipe.value = 50;
    this.swipe.dispatchEvent(new Event("input"));
    this.dialog.showModal();
    this.swipe.focus();
  }

  choose(side, at) {
    side.tile = this.tiles[at];
    side.choice.value = at;
    side.slider.max = side.tile.stops.length - 1;
    side.slider.value = side.tile.at;
    side.slider.disabled = side.tile.stops.length < 2;
    this.show(side);
  }

  show(side) {
    const stop = side.tile.stops[+side.slider.value], words = [stop.title, stop.setting, ...stop.lines].filter(Boolean);
    side.picture.src = stop.uri;
    side.picture.alt = [side.tile.codec, stop.title, side.tile.title].filter(Boolean).join(", ");
    side.slider.setAttribute("aria-valuetext", words.slice(0, 2).join(", ") || "original");
    side.text.textContent = words.join(" · ");
  }
}

/* A magnifier over all pictures of an exhibit, under the mouse or moved by the arrow keys. */
function magnify(tiles) {
  const ZOOM = 4, frames = tiles.map((tile) => tile.figure.querySelector(".frame"));
  let at = [0.5, 0.5];
  const show = () => frames.forEach((frame) => {
    const lens = frame.querySelector(".lens"), w = frame.clientWidth, h = frame.clientHeight;
    lens.style.display = "block";
    lens.style.backgroundImage = `url("${frame.querySelector("img").src}")`;
    const s = lens.offsetWidth, x = at[0] * w, y = at[1] * h;
    lens.style.backgroundSize = `${w * ZOOM}px ${h * ZOOM}px`;
    lens.style.backgroundPosition = `${s / 2 - x * ZOOM}px ${s / 2 - y * ZOOM}px`;
    lens.style.left = `${Math.max(0, Math.min(w - s, x - s / 2))}px`;
    lens.style.top = `${Math.max(0, Math.min(h - s, y - s / 2))}px`;
  });
  const hide = () => frames.forEach((frame) => { frame.querySelector(".lens").style.display = "none"; });
  frames.forEach((frame) => {
    frame.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse") return;
      const area = frame.getBoundingClientRect();
      at = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
      show();
    });
    frame.addEventListener("pointerleave", hide);
    frame.addEventListener("blur", hide);
    frame.addEventListener("click", hide);
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.04, 0], ArrowRight: [0.04, 0], ArrowUp: [0, -0.04], ArrowDown: [0, 0.04] }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      at = at.map((v, i) => Math.min(1, Math.max(0, v + step[i])));
      show();
    });
  });
}

const dialog = document.querySelector("#viewer"), viewer = dialog && new Viewer(dialog);
document.querySelectorAll(".exhibit").forEach((exhibit) => {
  const tiles = [...exhibit.querySelectorAll("[data-codec]")].map((figure) => new Tile(figure));
  const pictures = tiles.filter((tile) => !tile.player);
  magnify(pictures);
  pictures.forEach((tile) => tile.figure.querySelector(".frame").addEventListener("click", () => viewer.open(pictures, tile)));
});

/* One sound plays at a time; another version of the same clip continues at its position. */
document.addEventListener("play", (event) => {
  const player = event.target, clip = player.closest(".exhibit, tr");
  document.querySelectorAll("audio").forEach((other) => {
    if (other === player || other.paused) return;
    other.pause();
    if (clip && clip.contains(other) && other.currentTime < player.duration - 0.05) player.currentTime = other.currentTime;
  });
}, true);

/* Tables: a click on a heading sorts, the search field filters. */
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort, numeric = [...body.rows].every((row) => !isNaN(key(row)));
    body.append(...[...body.rows].sort((a, b) => {
      const [p, q] = [key(a), key(b)];
      if (p === "" || q === "") return (p === "") - (q === "");
      return (numeric ? p - q : p.localeCompare(q)) * (down ? -1 : 1);
    }));
  }));
});
document.querySelectorAll(".filters").forEach((fields) => {
  const rows = [...fields.closest("section").querySelectorAll("table.sortable tbody tr")], count = fields.querySelector("output");
  const value = (name) => fields.querySelector(`[name="${name}"]`).value.toLowerCase();
  const show = () => {
    const words = value("text").split(/\s+/).filter(Boolean), kind = value("kind"), license = value("license");
    const least = parseFloat(value("least")), most = parseFloat(value("most")), front = fields.querySelector(`[name="front"]`).checked;
    rows.forEach((row) => {
      const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase(), { dataset } = row;
      row.hidden = !(words.every((word) => text.includes(word)) && (!kind || dataset.kind === kind)
        && (!license || dataset.license.toLowerCase() === license) && !(dataset.rate < least) && !(dataset.rate > most)
        && (!front || row.querySelector(".star")));
    });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  fields.addEventListener("input", show);
});
document.querySelectorAll("#filter").forEach((field) => field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  document.querySelectorAll("table.sortable tbody tr").forEach((row) => {
    const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  });
}));
