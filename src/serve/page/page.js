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

// ---- hands ----

function choose(style) {
  shown.style = style;
  draw();
}

function nudge(input, by) {
  input.value = Number(input.value) + by;
  draw();
}

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
