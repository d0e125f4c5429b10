// Pictures from bytes: H.264 through WebCodecs where the browser has it, JPEG where not.
const BASELINE = "avc1.42c01f";

export async function preferredFormat() {
  if (!("VideoDecoder" in window) || new URLSearchParams(location.search).has("jpeg")) return "jpeg";
  try {
    const { supported } = await VideoDecoder.isConfigSupported({ codec: BASELINE, optimizeForLatency: true });
    return supported ? "h264" : "jpeg";
  } catch {
    return "jpeg";
  }
}

export function pictureDecoder(format, show, fail) {
  return format === "h264" ? new H264(show, fail) : new Jpeg(show, fail);
}

class Jpeg {
  constructor(show, fail) {
    this.show = show;
    this.fail = fail;
    this.last = Promise.resolve(); // pictures are shown in the order in which they came
  }

  open() {}

  decode(bytes, about) {
    const picture = createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    this.last = this.last.then(async () => this.show(await picture, about)).catch(this.fail);
  }
}

class H264 {
  constructor(show, fail) {
    this.show = show;
    this.fail = fail;
    this.about = new Map(); // timestamp -> what belongs to the frame
  }

  open({ frames_per_second: rate }) {
    this.frame_us = Math.round(1e6 / rate);
    this.decoder = new VideoDecoder({
      output: (picture) => {
        const about = this.about.get(picture.timestamp);
        this.about.delete(picture.timestamp);
        this.show(picture, about);
      },
      error: this.fail,
    });
  }

  decode(bytes, about) {
    const timestamp = about.index * this.frame_us;
    if (this.decoder.state === "unconfigured") {
      if (!about.isKey) return;
      this.decoder.configure({ codec: codecOf(bytes), optimizeForLatency: true });
    }
    if (this.decoder.state !== "configured") return;
    this.about.set(timestamp, about);
    this.decoder.decode(new EncodedVideoChunk({ type: about.isKey ? "key" : "delta", timestamp, data: bytes }));
  }
}

// The profile and level that the stream's own sequence parameter set names.
function codecOf(bytes) {
  for (let i = 0; i + 6 < bytes.length; i++) {
    const isStart = bytes[i] === 0 && bytes[i + 1] === 0 && bytes[i + 2] === 1;
    if (isStart && (bytes[i + 3] & 31) === 7) {
      return `avc1.${[...bytes.slice(i + 4, i + 7)].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
    }
  }
  return BASELINE;
}
