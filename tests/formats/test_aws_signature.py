"""AWS's signatures: the vectors that AWS publishes, and one made by botocore for a request to Bedrock."""

from __future__ import annotations

import calendar

import pytest

from waypost.formats.aws_signature import Credentials, authorize, canonical_path, parse_key, sign, signing_key

EXAMPLE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOON = calendar.timegm((2015, 8, 30, 12, 36, 0))
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def test_the_signing_key_of_the_documentation() -> None:
    key = signing_key(EXAMPLE.secret, "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "signature"),
    [
        ("GET", "/", [], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", [], b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET", "/?Param2=value2&Param1=value1", [], b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        ("GET", "/ሴ", [], b"", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ("GET", "/example/..", [], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET", "//", [], b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "POST", "/", [FORM], b"Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
)  # fmt: skip
def test_published_vectors(method: str, path: str, headers: list[tuple[str, str]], body: bytes, signature: str) -> None:
    made = dict(sign(EXAMPLE, method, "example.amazonaws.com", path, body, headers, "us-east-1", "service", NOON))
    assert made["x-amz-date"] == "20150830T123600Z"
    names = "content-type;host;x-amz-date" if headers else "host;x-amz-date"
    assert made["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )


def test_the_example_of_listing_users() -> None:
    headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")]
    path = "/?Action=ListUsers&Version=2010-05-08"
    made = dict(sign(EXAMPLE, "GET", "iam.amazonaws.com", path, b"", headers, "us-east-1", "iam", NOON))
    assert made["authorization"].endswith("5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a/../b/./c//d/", "/b/c/d/"),
        ("/model/us.amazon.nova-micro-v1%3A0/converse", "/model/us.amazon.nova-micro-v1%253A0/converse"),
        ("/a b~c", "/a%20b~c"),
    ],
)
def test_paths(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical


def test_headers_are_one_spelling() -> None:
    def signed(headers: list[tuple[str, str]]) -> str:
        return dict(sign(EXAMPLE, "GET", "h", "/", b"", headers, "r", "s", NOON))["authorization"]

    assert signed([("My-Header", "  a   b ")]) == signed([("my-header", "a b")])
    assert signed([("X", "1"), ("x", "2")]) == signed([("x", "1,2")]) != signed([("x", "2,1")])
    assert signed([("User-Agent", "changes on the way")]) == signed([])


def test_keys() -> None:
    assert parse_key("AKIA1:se/c+ret") == Credentials("AKIA1", "se/c+ret")
    assert parse_key("ASIA1:secret:to:ken") == Credentials("ASIA1", "secret", "to:ken")
    assert parse_key("ABSKQmVkcm9jaw==") == "ABSKQmVkcm9jaw=="


def test_a_bedrock_api_key_is_a_bearer_token() -> None:
    made = authorize("ABSKQmVkcm9jaw==", "POST", "h", "/", b"{}", [], "us-east-1", NOON)
    assert made == (("authorization", "Bearer ABSKQmVkcm9jaw=="),)


def test_a_request_to_bedrock_is_signed_as_botocore_signs_it() -> None:
    """The signature was made by botocore 1.44.5 from the same request at the same second."""
    made = dict(
        authorize(
            "ASIAEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY:a/session+token==",
            "POST",
            "bedrock-runtime.us-east-1.amazonaws.com",
            "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream",
            b'{"messages":[{"role":"user","content":[{"text":"Hi"}]}]}',
            [("content-type", "application/json")],
            "us-east-1",
            calendar.timegm((2026, 11, 21, 9, 30, 5)),
        )
    )
    assert made["x-amz-security-token"] == "a/session+token=="
    assert made["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=ASIAEXAMPLE/20261121/us-east-1/bedrock/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, "
        "Signature=bdf4aa462f9504972a8c98b935a189dc76243bbeff1ee8e4b464726a08b26ecb"
    )
