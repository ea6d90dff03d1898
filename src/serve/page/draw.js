// A slice of `shown` (see page.js) with its mask over it, and over the slider how much mask each slice has.
"use strict";

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
