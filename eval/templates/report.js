"use strict";
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
document.querySelectorAll("#filter").forEach((field) => field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  document.querySelectorAll("table.sortable tbody tr").forEach((row) => {
    const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  });
}));
