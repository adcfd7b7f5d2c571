"""A headless Chromium, driven through pipes by the DevTools protocol."""

import fcntl
import json
import os
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--remote-debugging-pipe")


class Browser:
    """One page in a browser with a fresh profile in `folder`; .told: errors and refusals."""

    def __init__(self, folder, url):
        commands, answers = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands[0], answers[1])]

        def at_three_and_four():
            for fd, place in zip(theirs, (3, 4), strict=True):
                os.dup2(fd, place)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"], pass_fds=(3, 4),
            preexec_fn=at_three_and_four, stderr=subprocess.DEVNULL)
        for fd in (commands[0], answers[1], *theirs):
            os.close(fd)
        self.to, self.source = os.fdopen(commands[1], "wb"), os.fdopen(answers[0], "rb")
        self.number, self.session, self.told = 0, None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"]
                      if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"],
                                 flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # a window in front
        self.call("Page.navigate", url=url)

    def call(self, method, **parameters):
        """What the browser answers to a command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.told.append(answer["params"])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self):
        data = b""
        while (byte := self.source.read(1)) != b"\0":
            assert byte, "the browser ended"
            data += byte
        return data

    def value(self, expression):
        """What a JavaScript expression is worth in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, seconds=30):
        """Until it is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never: {expression}; {self.told}"
            time.sleep(0.02)

    def press(self, key, code=0, **more):
        """A key, down and up."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **more)

    def close(self):
        """Ends it."""
        self.session = None
        self.call("Browser.close")
        self.to.close()
        self.source.close()
        self.process.wait(20)
