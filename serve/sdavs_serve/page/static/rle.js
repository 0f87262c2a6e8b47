// COCO's compressed run lengths, as pycocotools writes them: runs of 0 and 1 in turn, column by column.

/** Run lengths from their text: five bits a character, the sixth says that more follow; deltas from the third on. */
export function runLengths(text) {
  const runs = [];
  for (let position = 0; position < text.length; ) {
    let run = 0;
    let shift = 0;
    let bits;
    do {
      bits = text.charCodeAt(position++) - 48;
      run |= (bits & 0x1f) << shift;
      shift += 5;
    } while (bits & 0x20);
    if (bits & 0x10) run |= -1 << shift;
    if (runs.length > 2) run += runs[runs.length - 2];
    runs.push(run);
  }
  return runs;
}

/**
 * Write `value` into `labels` wherever the mask is set.
 *
 * @param rle {size: [height, width], counts: string}
 * @param labels Uint8Array of height * width, row by row
 */
export function paint(rle, labels, value) {
  const [height, width] = rle.size;
  let index = 0;
  let inside = false;
  for (const run of runLengths(rle.counts)) {
    if (inside) {
      for (let i = index; i < index + run; i++) labels[(i % height) * width + Math.floor(i / height)] = value;
    }
    index += run;
    inside = !inside;
  }
}
