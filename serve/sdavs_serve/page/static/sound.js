// Sounds for the model, and their waveforms.

/** A tenth of a second of silence as a wav file. The endpoint adds silence where a sound is shorter than the video. */
export function silence() {
  const rate = 16000;
  const bytes = (rate / 10) * 2;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  return new Blob([view], { type: "audio/wav" });
}

/**
 * How loud a file is over time, for drawing.
 *
 * @param blob a sound, or a video with sound
 * @param seconds how much of it
 * @param steps how many values
 * @returns `steps` peaks from 0 to 1, zeros after the sound's end; null if this browser cannot decode it
 */
export async function peaks(blob, seconds, steps) {
  const rate = 8000;
  let decoded;
  try {
    decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await blob.arrayBuffer());
  } catch {
    return null;
  }
  const samples = decoded.getChannelData(0);
  const perStep = (seconds * rate) / steps;
  return Array.from({ length: steps }, (_, step) => {
    let peak = 0;
    const end = Math.min(samples.length, Math.floor((step + 1) * perStep));
    for (let i = Math.floor(step * perStep); i < end; i++) peak = Math.max(peak, Math.abs(samples[i]));
    return peak;
  });
}
