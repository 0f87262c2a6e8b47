// The clip on a canvas: the video's picture, its current mask, and the sound that the model gets.

import { Overlays } from "./overlay.js";

// Small videos are drawn larger than they are, so that outlines stay thin.
const DRAWN_WIDTH = 960;

/** Whether this browser can play a video; tried in another element, so that the open clip stays open. */
export async function canPlay(blob) {
  const video = document.createElement("video");
  video.preload = "auto";
  video.muted = true;
  const tried = new Promise((resolve) => {
    video.onloadeddata = () => resolve(video.videoWidth > 0);
    video.onerror = () => resolve(false);
  });
  video.src = URL.createObjectURL(blob);
  try {
    return await tried;
  } finally {
    URL.revokeObjectURL(video.src);
    video.removeAttribute("src");
  }
}

export class Player {
  #canvas;
  #context;
  #video = document.createElement("video");
  #other = document.createElement("audio");
  #listening = "own";
  #overlays = null;
  #answer = null;
  #urls = { video: null, other: null };
  #opacity = 0.5;
  #onTime;
  #onPlaying;

  /**
   * @param onTime called with the time in seconds whenever another moment is shown
   * @param onPlaying called with true or false
   */
  constructor(canvas, { onTime, onPlaying }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: false });
    this.#onTime = onTime;
    this.#onPlaying = onPlaying;
    this.#video.playsInline = true;
    this.#video.preload = "auto";
    for (const event of ["loadeddata", "seeked", "timeupdate"]) this.#video.addEventListener(event, () => this.#show());
    this.#video.addEventListener("play", () => this.#run());
    this.#video.addEventListener("pause", () => this.#stopped());
    this.#video.addEventListener("ended", () => this.#stopped());
  }

  /** Load a clip that `canPlay`. */
  async load(blob) {
    this.pause();
    this.#replaceUrl("video", blob);
    const ready = new Promise((resolve) => this.#video.addEventListener("loadeddata", resolve, { once: true }));
    this.#video.src = this.#urls.video;
    await ready;
  }

  /**
   * Show an answer's masks.
   *
   * @param answer the endpoint's `SegmentAnswer`
   * @param burntIn the video itself is the overlay, so that nothing is drawn over it
   */
  setAnswer(answer, { burntIn = false } = {}) {
    this.#answer = answer;
    this.#overlays = burntIn ? null : new Overlays(answer.frames);
    const [height, width] = answer.frames[0].size;
    const scale = Math.max(1, Math.round(DRAWN_WIDTH / width));
    if (this.#canvas.width !== width * scale || this.#canvas.height !== height * scale) {
      this.#canvas.width = width * scale;
      this.#canvas.height = height * scale;
    }
    this.#show();
  }

  /** Play with the clip's own sound ("own"), without ("muted"), or with another file's ("swapped"). */
  setSound(listening, blob = null) {
    this.#listening = listening;
    this.#video.muted = listening !== "own";
    this.#other.pause();
    this.#replaceUrl("other", blob);
    if (blob) this.#other.src = this.#urls.other;
    else this.#other.removeAttribute("src");
    if (this.playing) this.#playOther();
  }

  set opacity(value) {
    this.#opacity = value;
    this.#show();
  }

  get playing() {
    return !this.#video.paused && !this.#video.ended;
  }

  get time() {
    return this.#video.currentTime;
  }

  /** Length in seconds. Videos recorded by browsers do not contain it; then it is the answer's. */
  get duration() {
    if (Number.isFinite(this.#video.duration)) return this.#video.duration;
    return this.#answer ? this.#answer.frames.length / this.#answer.fps : 0;
  }

  /** Index of the answer's frame at the current time. */
  get frame() {
    const { frames, fps } = this.#answer;
    return Math.min(frames.length - 1, Math.floor(this.time * fps + 1e-6));
  }

  seek(time) {
    this.#video.currentTime = Math.min(Math.max(0, time), this.duration);
    if (this.playing) this.#playOther();
  }

  async toggle() {
    if (this.playing) return this.pause();
    await this.#video.play();
    this.#playOther();
  }

  pause() {
    this.#video.pause();
  }

  #playOther() {
    if (this.#listening !== "swapped") return;
    this.#other.currentTime = this.#video.currentTime;
    // A sound that is shorter than the video has ended: what follows is silence, for the model as well.
    this.#other.play().catch(() => {});
  }

  #stopped() {
    this.#other.pause();
    this.#onPlaying(false);
    this.#show();
  }

  #run() {
    this.#onPlaying(true);
    const step = () => {
      if (!this.playing) return;
      this.#show();
      requestAnimationFrame(step);
    };
    step();
  }

  #show() {
    if (!this.#answer || this.#video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
    const { width, height } = this.#canvas;
    const context = this.#context;
    context.globalAlpha = 1;
    context.drawImage(this.#video, 0, 0, width, height);
    if (this.#overlays && this.#opacity > 0) {
      const { fill, outline } = this.#overlays.of(this.frame);
      context.globalAlpha = this.#opacity;
      context.drawImage(fill, 0, 0, width, height);
      context.globalAlpha = Math.min(1, 2 * this.#opacity);
      context.drawImage(outline, 0, 0, width, height);
    }
    this.#onTime(this.time);
  }

  #replaceUrl(which, blob) {
    if (this.#urls[which]) URL.revokeObjectURL(this.#urls[which]);
    this.#urls[which] = blob ? URL.createObjectURL(blob) : null;
  }
}
