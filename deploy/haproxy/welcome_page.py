"""The page at `/` of the client listener, for people who open the server's address in a browser. Pure."""

from html import escape

#: The features of a homeserver that this release lacks. README.md has the same list.
NOT_THERE_YET = (
    "Not there yet: federation with other servers, images and files, push notifications to phones, single sign-on,"
    " cross-signing and key backup, bridges, e-mail addresses and phone numbers, moderation tools."
)
#: The requirements of clients on other devices.
OTHER_DEVICES = (
    "A client on a phone or another computer needs a name and TLS: put a proxy with a certificate in front of the"
    ' client port, and set public_base_url to its https:// address (README.md, "A client on another device").'
)
_INTRODUCTION = (
    "This is Skep, a Matrix homeserver. It works. To use it, enter the address of this page in a Matrix client and log"
    " in with your account."
)
#: haproxy reads the page at its start, and sends it from one buffer (`tune.bufsize`).
FILE_NAME = "welcome.html"


def welcome_page() -> str:
    """Return the page as HTML. It loads nothing from elsewhere."""
    paragraphs = "\n".join(
        f"<p>{escape(text, quote=False)}</p>" for text in (_INTRODUCTION, NOT_THERE_YET, OTHER_DEVICES)
    )
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Skep</title>
<style>body {{ font: 1.1rem/1.5 sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem; }}</style>
</head>
<body>
<h1>Skep</h1>
{paragraphs}
</body>
</html>
"""
