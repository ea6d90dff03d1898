// The page: a file goes to /view, and what comes back is shown slice by slice. See src/serve/view.py for its form.
"use strict";

const $ = (id) => document.getElementById(id);
const KINDS = [".mha", ".nii", ".nii.gz", ".zip"];
const LARGEST_OUTLINE = 2.2; // pixels
let limits = null;
let request = null; // the upload on its way
let last = null; // the file of the last upload, to try again
let shown = null; // what is on the screen
let link = null; // the mask's URL

// ---- to the server ----

async function describe() {
  try {
    const health = await (await fetch("/health")).json();
    limits = health.limits;
    $("model").textContent = health.model + (health.classes > 2 ? ` · ${health.classes - 1} classes` : "");
    $("kinds").textContent += ` · up to ${megabytes(limits.upload_bytes)}`;
  } catch {
    $("model").textContent = "The server does not answer.";
  }
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MiB`;

function send(file) {
  if (request) return;
  last = file;
  $("error").hidden = true;
  if (!KINDS.some((kind) => file.name.toLowerCase().endsWith(kind))) {
    fail("No volume", `${file.name}: expected ${KINDS.join(", ")}. A .mhd goes into a .zip with its voxel file.`);
    return;
  }
  if (limits && file.size > limits.upload_bytes) {
    fail("Too large", `${file.name} has ${megabytes(file.size)}; the server takes up to ${megabytes(limits.upload_bytes)}. `
      + "Compress the volume (.nii.gz), or crop it.");
    return;
  }
  const form = new FormData();
  form.append("file", file);
  request = new XMLHttpRequest(); // fetch does not tell how far an upload is
  request.open("POST", "/view");
  request.responseType = "arraybuffer";
  request.upload.onprogress = (event) => progress(event.lengthComputable ? event.loaded / event.total : null);
  request.upload.onload = () => progress(null);
  request.onload = () => answered(request);
  request.onerror = () => ended(() => fail("No connection", "The server does not answer. Is it running?", true));
  request.onabort = () => ended(() => {});
  $("busy-name").textContent = file.name;
  $("ask").hidden = true;
  $("busy").hidden = false;
  progress(0);
  request.send(form);
}

function progress(share) {
  if (share === null || share >= 1) {
    $("progress").removeAttribute("value");
    $("busy-text").textContent = "is being segmented …";
  } else {
    $("progress").value = share;
    $("busy-text").textContent = `is being sent, ${Math.round(100 * share)} %`;
  }
}

function ended(then) {
  request = null;
  $("busy").hidden = true;
  $("ask").hidden = false;
  then();
}

function answered(answer) {
  if (answer.status === 200) {
    ended(() => open(answer.response));
    return;
  }
  let reason = `The server answered ${answer.status} ${answer.statusText}.`;
  try {
    reason = JSON.parse(new TextDecoder().decode(answer.response)).error;
  } catch { /* of a proxy in between, perhaps */ }
  const titles = { 408: "The upload was too slow", 413: "Too large", 503: "The server is busy", 504: "It took too long" };
  const again = answer.getResponseHeader("Retry-After");
  if (again) reason += `\nIt may work in ${again} s.`;
  ended(() => fail(titles[answer.status] || (answer.status < 500 ? "The volume was not taken" : "The server failed"),
    reason, answer.status >= 500 || answer.status === 408));
}

function fail(title, text, again = false) {
  $("error-title").textContent = title;
  $("error-text").textContent = text;
  $("again").hidden = !again;
  $("error").hidden = false;
}

// ---- what came back ----

function open(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let start = 4 + length;
  const [image, mask, file] = about.parts.map((count) => {
    const part = new Uint8Array(buffer, start, count);
    start += count;
    return part;
  });
  shown = { ...about, image, mask, plane: 0, index: 0, profiles: [], style: shown ? shown.style : "fill" };
  shown.views = views(about);
  if (link) URL.revokeObjectURL(link);
  link = URL.createObjectURL(new Blob([file]));
  $("download").href = link;
  $("download").download = about.name;
  $("title").textContent = about.name;
  $("classes").tBodies[0].replaceChildren(...about.classes.map((one, number) => {
    const row = document.createElement("tr");
    const [name, value] = [row.insertCell(), row.insertCell()];
    const colour = document.createElement("i");
    colour.style.background = one.colour;
    name.append(colour, about.classes.length > 1 ? `Class ${number + 1}` : "Foreground");
    value.textContent = `${one.ml.toFixed(one.ml < 100 ? 2 : 1)} ml`;
    return row;
  }));
  $("none").hidden = about.classes.some((one) => one.ml > 0);
  const { wait = 0, ...work } = about.seconds;
  const total = Object.values(work).reduce((sum, one) => sum + one, 0);
  $("facts").textContent = `${about.stored.join(" × ")} voxels of ${about.spacing.map((edge) => +edge.toFixed(3)).join(" × ")} mm as `
    + `shown. Segmented in ${total.toFixed(2)} s, of which the network took ${work.network.toFixed(2)} s`
    + `${wait > 0.05 ? `, after a wait of ${wait.toFixed(1)} s` : ""}.`;
  $("planes").replaceChildren(...shown.views.map((view, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = view.name;
    button.addEventListener("click", () => choosePlane(number));
    return button;
  }));
  $("brightness").value = $("contrast").value = 0;
  $("viewer").hidden = false;
  document.body.dataset.state = "ready";
  choosePlane(0);
}

// Three planes: across axis 2, as stored, then across 1 and 0. `right`, `down`, `through` are axes of the volume.
function views(about) {
  const headUp = about.ends[2] === "IS" || about.ends[2] === "PA"; // axis 2 runs up on the screen then
  const name = (axis) => about.planes[axis][0].toUpperCase() + about.planes[axis].slice(1);
  return [
    { right: 0, down: 1, through: 2, flip: false, name: name(2) },
    { right: 0, down: 2, through: 1, flip: headUp, name: name(1) },
    { right: 1, down: 2, through: 0, flip: headUp, name: name(0) },
  ];
}

function profile(number) {
  if (!shown.profiles[number]) {
    const { through } = shown.views[number];
    const [columns, rows] = shown.size;
    const counts = new Float64Array(shown.size[through]);
    for (let voxel = 0, z = 0; z < shown.size[2]; z += 1) {
      for (let y = 0; y < rows; y += 1) {
        for (let x = 0; x < columns; x += 1, voxel += 1) {
          if (shown.mask[voxel]) counts[through === 2 ? z : through === 1 ? y : x] += 1;
        }
      }
    }
    shown.profiles[number] = counts;
  }
  return shown.profiles[number];
}

function fullest(counts) {
  const most = counts.reduce((best, count) => Math.max(best, count), 0);
  return most ? counts.indexOf(most) : Math.floor(counts.length / 2);
}

function choosePlane(number) {
  shown.plane = number;
  const count = shown.size[shown.views[number].through];
  $("position").max = count - 1;
  [...$("planes").children].forEach((button, place) => button.setAttribute("aria-pressed", place === number));
  go(fullest(profile(number)));
}

function go(index) {
  const count = shown.size[shown.views[shown.plane].through];
  shown.index = Math.min(Math.max(Math.round(index), 0), count - 1);
  $("position").value = shown.index;
  draw();
}

// ---- drawing ----

const pixels = document.createElement("canvas");
const paint = document.createElement("canvas");

function colours() {
  return shown.classes.map((one) => [1, 3, 5].map((place) => parseInt(one.colour.slice(place, place + 2), 16)));
}

function greys() {
  const [low, high] = shown.window;
  const width = Math.max(high - low, 1) * 2 ** (-$("contrast").value / 50);
  const middle = (low + high) / 2 - ($("brightness").value / 100) * Math.max(high - low, 1);
  return Uint8ClampedArray.from({ length: 256 }, (_, grey) => (255 * (grey - middle + width / 2)) / width);
}

function draw() {
  if (!shown) return;
  const view = shown.views[shown.plane];
  const steps = [1, shown.size[0], shown.size[0] * shown.size[1]];
  const [columns, rows] = [shown.size[view.right], shown.size[view.down]];
  const voxel = (column, row) => shown.index * steps[view.through] + column * steps[view.right]
    + (view.flip ? rows - 1 - row : row) * steps[view.down];
  for (const sheet of [pixels, paint]) {
    sheet.width = columns;
    sheet.height = rows;
  }
  const image = new ImageData(columns, rows);
  const mask = new ImageData(columns, rows);
  const [grey, tints] = [greys(), colours()];
  for (let row = 0, place = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1, place += 4) {
      const from = voxel(column, row);
      image.data.fill(grey[shown.image[from]], place, place + 3);
      image.data[place + 3] = 255;
      if (shown.mask[from]) mask.data.set([...tints[shown.mask[from] - 1], 255], place);
    }
  }
  pixels.getContext("2d").putImageData(image, 0, 0);
  paint.getContext("2d").putImageData(mask, 0, 0);

  const canvas = $("slice");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const context = canvas.getContext("2d");
  const [wide, high] = [columns * shown.spacing[view.right], rows * shown.spacing[view.down]];
  const scale = Math.min(canvas.width / wide, canvas.height / high) * 0.94;
  const [width, height] = [wide * scale, high * scale];
  const [left, top] = [(canvas.width - width) / 2, (canvas.height - height) / 2];
  context.imageSmoothingQuality = "high";
  context.drawImage(pixels, left, top, width, height);
  const opacity = $("opacity").value / 100;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  if (shown.style === "fill") {
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false; // a voxel is in the mask or not
    context.drawImage(paint, left, top, width, height);
  } else if (shown.style === "outline") {
    // Thin lines hardly show when they are as transparent as areas.
    context.globalAlpha = Math.min(1, 2 * opacity);
    context.lineWidth = LARGEST_OUTLINE * ratio;
    context.lineCap = "round";
    outline(context, columns, rows, (column, row) => shown.mask[voxel(column, row)],
      (column) => left + (column * width) / columns, (row) => top + (row * height) / rows);
  }
  context.globalAlpha = 1;
  drawProfile();
  [...$("styles").children].forEach((button) => button.setAttribute("aria-pressed", button.dataset.style === shown.style));
  const [start, end] = [...shown.ends[view.down]];
  [$("end-left").textContent, $("end-right").textContent] = [...shown.ends[view.right]];
  [$("end-top").textContent, $("end-bottom").textContent] = view.flip ? [end, start] : [start, end];
  const text = `slice ${shown.index + 1} of ${shown.size[view.through]}`;
  $("where").textContent = `${view.name}, ${text}`;
  $("position").setAttribute("aria-valuetext", text);
}

// Along the edges between a voxel of the mask and its neighbours of another class.
function outline(context, columns, rows, at, x, y) {
  const inside = (column, row) => (column >= 0 && row >= 0 && column < columns && row < rows ? at(column, row) : 0);
  shown.classes.forEach((one, number) => {
    context.strokeStyle = one.colour;
    context.beginPath();
    for (let row = 0; row <= rows; row += 1) {
      for (let column = 0; column <= columns; column += 1) {
        const here = inside(column, row) === number + 1;
        if (here !== (inside(column - 1, row) === number + 1)) {
          context.moveTo(x(column), y(row));
          context.lineTo(x(column), y(row + 1));
        }
        if (here !== (inside(column, row - 1) === number + 1)) {
          context.moveTo(x(column), y(row));
          context.lineTo(x(column + 1), y(row));
        }
      }
    }
    context.stroke();
  });
}

// How much mask each slice has, over the slider.
function drawProfile() {
  const canvas = $("profile");
  const counts = profile(shown.plane);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  const context = canvas.getContext("2d");
  const most = counts.reduce((best, count) => Math.max(best, count), 1);
  const margin = 8 * ratio; // half of the slider's thumb
  const step = (canvas.width - 2 * margin) / Math.max(counts.length - 1, 1);
  const thick = Math.max(1, Math.min(step * 0.8, 10 * ratio));
  counts.forEach((count, place) => {
    const tall = count ? Math.max(2 * ratio, (count / most) * canvas.height) : 0;
    context.fillStyle = place === shown.index ? "#ffffff" : "#ff6b6b";
    const height = place === shown.index ? Math.max(tall, 2 * ratio) : tall;
    context.fillRect(margin + place * step - thick / 2, canvas.height - height, thick, height);
  });
}

function choose(style) {
  shown.style = style;
  draw();
}

function nudge(input, by) {
  input.value = Number(input.value) + by;
  draw();
}

// ---- hands ----

$("file").addEventListener("change", (event) => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});
$("cancel").addEventListener("click", () => request && request.abort());
$("dismiss").addEventListener("click", () => { $("error").hidden = true; });
$("again").addEventListener("click", () => send(last));
$("position").addEventListener("input", (event) => go(Number(event.target.value)));
for (const id of ["opacity", "brightness", "contrast"]) $(id).addEventListener("input", draw);
for (const button of $("styles").children) button.addEventListener("click", () => choose(button.dataset.style));
new ResizeObserver(draw).observe($("screen"));

let turned = 0;
$("slice").addEventListener("wheel", (event) => {
  event.preventDefault();
  turned += event.deltaY * [1, 40, 400][event.deltaMode];
  const slices = Math.trunc(turned / 40); // a touchpad sends many small steps
  if (slices) {
    turned -= slices * 40;
    go(shown.index + Math.max(-3, Math.min(3, slices)));
  }
}, { passive: false });

let held = null; // where a finger or the mouse took hold of the slice
$("slice").addEventListener("pointerdown", (event) => {
  held = { y: event.clientY, index: shown.index };
  $("slice").setPointerCapture(event.pointerId);
});
$("slice").addEventListener("pointermove", (event) => {
  if (held) go(held.index + Math.round((event.clientY - held.y) / 6));
});
for (const kind of ["pointerup", "pointercancel"]) $("slice").addEventListener(kind, () => { held = null; });

document.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    m: () => go(fullest(profile(shown.plane))),
    o: () => choose(shown.style === "outline" ? "fill" : "outline"),
    h: () => choose(shown.style === "hidden" ? "fill" : "hidden"),
    1: () => choosePlane(0), 2: () => choosePlane(1), 3: () => choosePlane(2),
    "+": () => nudge($("opacity"), 5), "-": () => nudge($("opacity"), -5),
  };
  const moves = {
    ArrowUp: () => go(shown.index + 1), ArrowDown: () => go(shown.index - 1),
    ArrowRight: () => go(shown.index + 1), ArrowLeft: () => go(shown.index - 1),
    PageUp: () => go(shown.index + 10), PageDown: () => go(shown.index - 10),
    Home: () => go(0), End: () => go(Infinity),
  };
  const inSlider = event.target instanceof HTMLInputElement; // which has moves of its own
  const act = keys[event.key.toLowerCase()] || (inSlider ? null : moves[event.key]);
  if (act) {
    event.preventDefault();
    act();
  }
});

let depth = 0; // dragenter and dragleave come for every element in between
const carriesFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    depth = kind === "drop" ? 0 : depth + (kind === "dragenter") - (kind === "dragleave");
    $("over").hidden = depth === 0 || request !== null;
    if (kind !== "drop") return;
    if (event.dataTransfer.files.length > 1) {
      fail("One at a time", "Drop a single file; a .mhd and its voxel file go into one .zip.");
    } else if (event.dataTransfer.files.length) {
      send(event.dataTransfer.files[0]);
    }
  });
}

describe();
