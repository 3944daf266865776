"""The live page of a service with tokens: it asks for one, for readings and for the status."""

from support.stack import MakeStack
from system.page.watched_page import OpenPage


def test_a_service_with_tokens_asks_for_one(
    make_stack: MakeStack, open_page: OpenPage, tokens: tuple[str, str, str]
) -> None:
    path, token, admin = tokens
    stack = make_stack({"IOT_TOKENS_FILE": path, "IOT_LIVE_HEARTBEAT_SECONDS": "3600"})
    live = f"http://127.0.0.1:{stack.port}/api/iot/live"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = '{"data": {"db_password": "secret 5", "freeform": {"x": 1}}}'
    assert stack.request("PUT", "/api/iot", body, headers).status == 201
    page = open_page(stack.port)
    page.expected = {"401 (UNAUTHORIZED)", "403 (FORBIDDEN)"}
    page.submit("secret 5")
    page.wait_for_text("#entry-message", "This service needs a token")
    page.see("token")
    page.submit("secret 5", "secret-of-nobody")
    page.wait_for_text("#entry-message", "does not know this token")
    page.submit("secret 5", f"“{token}”")
    page.wait_for("() => document.querySelector('#entry-form').dataset.state === 'idle'")
    page.wait_for_text("#entry-message", "does not know this token")
    page.open("secret 5", token)
    page.wait_for_text("#table-body", '{"x": 1}')
    page.page.click("#show-operator")
    page.page.fill("#operator-token", token)
    page.page.keyboard.press("Enter")
    page.wait_for_text("#operator-message", "lacks the scope")
    page.see("service-token")
    page.page.fill("#operator-token", f"“{admin}”")
    page.page.keyboard.press("Enter")
    page.wait_for_text("#operator-message", "does not know this token")
    page.page.fill("#operator-token", admin)
    page.page.keyboard.press("Enter")
    page.wait_for_text("#operator-cards", "master key")
    page.wait_for_text("#operator-processes", "writer")
    page.see("service", full=True)
    page.page.click("#show-readings")
    page.wait_for_text("#status-text", "Live")
    page.page.click("#lock")
    page.page.wait_for_selector("#password:focus")
    assert page.page.input_value("#operator-token") == ""
    page.submit("secret 5")
    page.wait_for_text("#entry-message", "This service needs a token")
    page.page.clock.install()
    page.open("secret 5", token)
    page.wait_for_text("#table-body", '{"x": 1}')
    streams = [each.url for each in page.requests].count(live)
    page.page.clock.fast_forward(60_000)
    body = body.replace("1}", "2}")
    assert stack.request("PUT", "/api/iot", body, headers).status == 201
    page.wait_for_text("#table-body", '{"x": 2}')
    # The page knows that the heartbeat of the stream is not late.
    assert [each.url for each in page.requests].count(live) == streams
