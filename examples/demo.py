"""The main job, start to end: train a model, import it, build it, see why one build won, run it, compare the answers.

It ends with a control plane that serves the model, on the page of its console that shows it. Run it with `make demo`;
it writes into `out/`.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import tilth

OUT = Path("out")
MODELS = Path(os.environ.get("TILTH_MODELS", "../shared/models"))


def main() -> None:
    """Run the digits job, then the same for every real model beside the checkout."""
    OUT.mkdir(exist_ok=True)
    pipeline, held_out, labels = train()
    digits(pipeline, held_out, labels)
    for path in sorted(MODELS.glob("*.onnx")):
        real_model(path)
    say("6. a control plane: push it, deploy it, and watch it serve")
    watched(OUT / "digits.tilth", held_out)


def train() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """Train on 1,437 real handwritten digits; return the pipeline and the 360 that it has not seen."""
    say("1. train a scikit-learn pipeline on handwritten digits")
    images, labels = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    known, held_out, known_labels, held_out_labels = train_test_split(images, labels, test_size=360, random_state=0)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((256, 128), max_iter=60, random_state=0, tol=1e-3))
    pipeline.fit(known, known_labels)
    print(f"scikit-learn is right on {pipeline.score(held_out, held_out_labels):.2%} of the held-out digits")
    return pipeline, held_out, held_out_labels


def digits(pipeline: Pipeline, held_out: np.ndarray, labels: np.ndarray) -> None:
    """Import, build, explain, run and compare the pipeline."""
    bundle = OUT / "digits.tilth"
    say("2. import it: graph, weights, and a golden set that scikit-learn itself answers")
    manifest = tilth.import_model(pipeline, held_out[:128], out=bundle)
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        print(f"  {spec}")
    print(f"  {manifest.notes['import']}")
    say("3. build it: every candidate in its own process, measured side by side")
    name = manifest.signature.inputs[0].name
    np.savez(OUT / "digits-eval.npz", **{name: held_out, "label": labels})
    np.savez(OUT / "digits-input.npz", **{name: held_out})
    command("build", str(bundle), "--eval", str(OUT / "digits-eval.npz"), "--max-drop", "0.5%", "--budget", "20s")
    say("4. run it on the held-out digits and compare with scikit-learn")
    command("run", str(bundle), "--input", str(OUT / "digits-input.npz"), "--output", str(OUT / "digits-output.npz"))
    with np.load(OUT / "digits-output.npz", allow_pickle=False) as outputs:
        compare(outputs, pipeline, held_out, labels)
    say("5. serve it, and ask over HTTP")
    served(bundle, pipeline, held_out[:3])


def served(bundle: Path, pipeline: Pipeline, rows: np.ndarray) -> None:
    """Serve the bundle on a free port, ask for a few rows, and end the server."""
    arguments = ["serve", f"digits={bundle}", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--json"]
    print(f"$ tilth {' '.join(arguments[:2])}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "tilth", *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            address = json.loads(server.stdout.readline())["http"]
            wait_until_ready(f"http://{address}/v2/health/ready")
            print("$ curl localhost:8751/v1/models/digits:predict -d '{\"instances\": [[0, 0, 5, ...], ...]}'")
            answer = post(f"http://{address}/v1/models/digits:predict", {"instances": rows.tolist()})
        finally:
            server.terminate()
    found = [row["label"] for row in answer["predictions"]]
    print(f"digits: {found}, scikit-learn says {pipeline.predict(rows).tolist()}")


def watched(bundle: Path, rows: np.ndarray) -> None:
    """Push and deploy the bundle at a control plane that stays, call it, and end on its page in the console."""
    home = (OUT / "home").absolute()
    os.environ |= {"TILTH_HOME": str(home), "TILTH_LOGIN": str(OUT.absolute() / "login.json")}
    here = told("status")["here"]
    if here["running"] and not here["answers"]:
        command("down")
    if not here["answers"]:
        free = ["--port", "0", "--serve-http", "127.0.0.1:0", "--serve-grpc", "127.0.0.1:0"]
        token = told("up", "--detach", "--new-token", *free)["token"]
        (OUT / "token").touch(mode=0o600)
        (OUT / "token").write_text(token)
    command("login", "--token-file", str(OUT / "token"))
    version = told("push", str(bundle), "digits")["version"]["number"]
    print(f"$ tilth push {bundle} digits\ndigits:{version}")
    command("deploy", f"digits:{version}")
    found = told("endpoints", "show", "digits")
    address = f"{found['serving']}/v1/models/{found['endpoint']['served_as']}:predict"
    for start in range(0, 320, 16):
        post(address, {"instances": rows[start : start + 16].tolist()}, (OUT / "token").read_text())
    page = f"{told('status')['here']['address']}/console/p/default/endpoints/digits"
    print(f"20 requests with 320 digits were answered at {address}")
    say(f"done: {bundle} holds the graph, the golden set, every build and its certificate, and serves")
    print(f"its page:  {page}\nsign in:   with the token in {OUT / 'token'}")
    print(f"end it:    .venv/bin/tilth down --home {OUT / 'home'}")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(page)


def wait_until_ready(url: str) -> None:
    """Ask until the server says that all models answer, for at most a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server did not become ready")


def post(url: str, body: dict, token: str = "") -> dict:
    """Send JSON and return the JSON that comes back."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def compare(outputs: dict[str, np.ndarray], pipeline: Pipeline, held_out: np.ndarray, labels: np.ndarray) -> None:
    """Print how far the build's answers are from scikit-learn's."""
    found, chances = (outputs[name] for name in list(outputs))
    same = np.mean(found == pipeline.predict(held_out))
    apart = np.abs(chances - pipeline.predict_proba(held_out)).max()
    print(f"same digit as scikit-learn on {same:.2%} of {len(labels)}; largest difference of a probability {apart:.1e}")
    print(f"right on {np.mean(found == labels):.2%}, scikit-learn on {pipeline.score(held_out, labels):.2%}")


def real_model(path: Path) -> None:
    """Import and build one of the real models."""
    say(f"and {path.name}")
    bundle, sample = OUT / f"{path.stem}.tilth", OUT / f"{path.stem}-sample.npz"
    arguments = ["import", str(path), "-o", str(bundle)]
    inputs = real_inputs(path.stem)
    if inputs:
        np.savez(sample, **inputs)
        arguments += ["--sample", str(sample)]
    command(*arguments)
    command("build", str(bundle), "--budget", "15s")


def real_inputs(name: str) -> dict[str, np.ndarray]:
    """Return real inputs for the models that are known here: files for magika, a vowel for silero_vad."""
    if name.startswith("magika"):
        files = sorted(Path(np.__file__).parent.rglob("*.py"))[:16]
        return {"bytes": np.stack([magika_features(path.read_bytes()) for path in files])}
    if name.startswith("silero_vad"):
        time = np.arange(576) / 16_000
        voice = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12))
        audio = (0.1 * voice).astype(np.float32)[None, :]
        return {"input": audio, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16_000)}
    return {}


def magika_features(data: bytes) -> np.ndarray:
    """Return the first and the last 1,024 bytes of a file, stripped and padded with 256, as magika takes them."""
    first, last = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    features = np.full(2048, 256, np.int32)
    features[: len(first)] = np.frombuffer(first, np.uint8)
    features[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return features


def command(*arguments: str) -> None:
    """Run a tilth command as a user would, and show it."""
    print(f"$ tilth {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "tilth", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def told(*arguments: str) -> dict:
    """Run a tilth command and return what it prints with `--json`."""
    done = subprocess.run([sys.executable, "-m", "tilth", *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"tilth {' '.join(arguments)}: {done.stdout.decode()}")
    return json.loads(done.stdout)


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
