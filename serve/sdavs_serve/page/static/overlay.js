// The mask of a frame as two pictures to draw over it: the filled mask, and its outline.

import { paint } from "./rle.js";

// As in the endpoint's own overlays (sdavs_serve/encoding/responses.py): binary models use the first.
export const COLOURS = [
  [255, 48, 64],
  [48, 160, 255],
  [255, 200, 40],
  [80, 220, 120],
  [200, 90, 255],
  [255, 140, 60],
];

const KEPT = 12;

/** Bitmaps of an answer's frames, drawn when they are first shown; few are kept, as masks of large videos are large. */
export class Overlays {
  #frames;
  #drawn = new Map();

  constructor(frames) {
    this.#frames = frames;
  }

  /** {fill, outline}, canvases of the frame's size; fill is opaque inside the mask. */
  of(index) {
    if (!this.#drawn.has(index)) {
      if (this.#drawn.size >= KEPT) this.#drawn.delete(this.#drawn.keys().next().value);
      this.#drawn.set(index, drawn(this.#frames[index]));
    }
    return this.#drawn.get(index);
  }
}

function drawn(frame) {
  const [height, width] = frame.size;
  const labels = new Uint8Array(height * width);
  for (const { index, rle } of frame.classes ?? [{ index: 1, rle: frame.rle }]) paint(rle, labels, index);
  const fill = new ImageData(width, height);
  const outline = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const label = labels[at];
      if (!label) continue;
      const rgba = [...COLOURS[(label - 1) % COLOURS.length], 255];
      fill.data.set(rgba, 4 * at);
      const edge =
        (x > 0 && labels[at - 1] !== label) ||
        (x < width - 1 && labels[at + 1] !== label) ||
        (y > 0 && labels[at - width] !== label) ||
        (y < height - 1 && labels[at + width] !== label);
      if (edge) outline.data.set(rgba, 4 * at);
    }
  }
  return { fill: onCanvas(fill), outline: onCanvas(outline) };
}

function onCanvas(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
