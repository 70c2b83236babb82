"""Bearer tokens, contract §5: which tokens are valid, and that every call below /api/progress needs a session."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.world import (
    LEARNER,
    SECRET,
    STRANGER,
    add_module,
    add_user,
    assert_problem,
    bearer,
    complete,
    get,
    lesson_path,
    ok,
    token,
    uuid4,
)

OTHER_SECRET = "another secret of the tests that is as long"
PLAIN = 'Bearer realm="progress"'


@pytest.fixture
def world(db):
    """LEARNER has completed the only lesson, and STRANGER has not."""
    add_user(db)
    add_user(db, STRANGER)
    add_module(db, 1, 2)
    complete(db, 2)
    return db


def call(api, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    return api.get("/api/progress/summary", headers=headers)


def assert_taken(api, text):
    """Assert that the token is valid and is LEARNER's."""
    assert ok(call(api, f"Bearer {text}")) == {"percent": 100, "completedCount": 1, "totalCount": 1}


def assert_refused(api, text):
    answer = call(api, f"Bearer {text}")
    assert_problem(answer, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith(f'{PLAIN}, error="invalid_token", error_description="')
    assert answer.headers["WWW-Authenticate"].isascii()


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else data.encode()).rstrip(b"=").decode()


def by_hand(payload, header='{"alg":"HS256","typ":"JWT"}', secret=SECRET, digest=hashlib.sha256):
    """Sign any header and payload, text or bytes, with a secret. A library would refuse many of these."""
    signed = f"{b64(header)}.{b64(payload)}"
    key = secret if isinstance(secret, bytes) else secret.encode()
    return f"{signed}.{b64(hmac.new(key, signed.encode(), digest).digest())}"


def claims(**changes):
    """Return the claims of a token as JSON. A change is JSON text. None leaves the claim out."""
    now = int(time.time())
    texts = {"sub": f'"{LEARNER}"', "iat": str(now), "exp": str(now + 3600)} | changes
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts.items() if text is not None) + "}"


def test_a_signed_token_is_a_session(api, world):
    assert_taken(api, token())
    assert_taken(api, by_hand(claims()))


def test_every_call_under_api_progress_needs_a_session(api, world):
    rules = [rule for rule in api.application.url_map.iter_rules() if rule.rule.startswith("/api/progress")]
    assert len(rules) >= 8
    for rule in rules:
        for argument in (uuid4(1), "bad"):
            with api.application.test_request_context():
                path = api.application.url_map.bind("x").build(rule.endpoint, dict.fromkeys(rule.arguments, argument))
            for method in rule.methods - {"HEAD"}:
                answer = api.open(path, method=method)
                assert_problem(answer, "unauthenticated")
                assert answer.headers["WWW-Authenticate"] == PLAIN
                answer = api.open(path, method=method, headers={"Authorization": f"Bearer {token(exp=1)}"})
                assert_problem(answer, "unauthenticated")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
@pytest.mark.parametrize("space", [" ", "  "])
def test_the_scheme_may_be_in_any_case(api, world, scheme, space):
    assert ok(call(api, f"{scheme}{space}{token()}"))["completedCount"] == 1


@pytest.mark.parametrize(
    "authorization",
    [
        *(
            None,
            "",
            " ",
            "Basic dXNlcjpwYXNzd29yZA==",
            "Basic",
            "Digest username=x",
            "Negotiate abc",
            "Bear {}",
            "Bearers {}",
        ),
        *(
            "{}",
            "Token {}",
            "Basic {}",
            "JWT {}",
            "Bearer:{}",
            "Bearer={}",
            "Bearer{}",
            '"Bearer" {}',
            "Authorization: Bearer {}",
        ),
    ],
)
def test_another_scheme_is_as_no_session(api, world, authorization):
    answer = call(api, authorization and authorization.format(token()))
    assert_problem(answer, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "x",
            ".",
            "..",
            "...",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            "a.b.c.d.e",
            "null",
            "undefined",
            "é.é.é",
            "=.=.=",
            "%00",
        ),
        *("{}.{}.{}", "eyJhbGciOiJIUzI1NiJ9..", "eyJhbGciOiJIUzI1NiJ9.e30.", "\x80\xff", "a" * 8193, "." * 8000),
    ],
)
def test_garbage_is_refused(api, world, text):
    assert_refused(api, text)


def test_a_token_with_more_or_less_to_it_is_refused(api, world):
    good = token()
    header, payload, signature = good.split(".")
    forged = b64(json.dumps(jwt.decode(good, options={"verify_signature": False}) | {"sub": STRANGER}))
    for text in (
        *(good + ".", "." + good, good + " x", good + "," + good, f"{good} {good}", good[:-4], good + "AAAA"),
        *(
            f"{header}.{payload}",
            f"{header}.{payload}.",
            f"{header}.{forged}.{signature}",
            f"{payload}.{header}.{signature}",
        ),
        *(f"{header}..{signature}", f'"{good}"', good.replace(".", ",")),
    ):
        assert_refused(api, text)


def test_each_of_the_rotated_secrets_verifies(make_api, world):
    api = make_api(AUTH_JWT_SECRET=f"{OTHER_SECRET}, {SECRET}")
    assert_taken(api, token())
    assert_taken(api, token(key=OTHER_SECRET))
    assert_refused(api, token(key=f"{OTHER_SECRET}, {SECRET}"))
    assert_refused(api, token(key="a third secret of the tests that is as long"))
    assert_refused(api, token(exp=1, key=OTHER_SECRET))
    assert_refused(api, token(exp=1))


@pytest.mark.parametrize(
    "key", ["a third secret of the tests that is as long", SECRET + " ", SECRET[:-1] + "x", SECRET.upper()]
)
def test_a_token_signed_with_another_secret_is_refused(api, world, key):
    assert_refused(api, token(key=key))


@pytest.mark.parametrize(("alg", "digest"), [("HS384", hashlib.sha384), ("HS512", hashlib.sha512)])
def test_a_secret_verifies_hs256_alone(api, world, alg, digest):
    assert_refused(api, by_hand(claims(), f'{{"alg":"{alg}"}}', digest=digest))


PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PUBLIC = {
    name: key.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
    for name, key in PRIVATE.items()
}
OTHERS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.fixture(params=PRIVATE)
def algorithm(request):
    return request.param


def test_a_public_key_verifies_its_own_types_algorithm_alone(make_api, world, algorithm):
    api = make_api(AUTH_JWT_SECRET="", AUTH_JWT_PUBLIC_KEY=PUBLIC[algorithm])
    assert_taken(api, token(key=PRIVATE[algorithm], algorithm=algorithm))
    assert_refused(api, token(key=OTHERS[algorithm], algorithm=algorithm))
    assert_refused(api, token())
    for other in set(PRIVATE) - {algorithm}:
        assert_refused(api, token(key=PRIVATE[other], algorithm=other))
        # The signature is right, but the header names another algorithm.
        good = token(key=PRIVATE[algorithm], algorithm=algorithm)
        assert_refused(api, b64(json.dumps({"alg": other})) + good[good.index(".") :])
    if algorithm == "RS256":
        for other in ("RS384", "RS512", "PS256"):
            assert_refused(api, token(key=PRIVATE[algorithm], algorithm=other))
    # Everybody knows the public key, so a token that is signed with its text must be refused.
    for text in (PUBLIC[algorithm], PUBLIC[algorithm].strip(), PUBLIC[algorithm].replace("\n", "\\n")):
        assert_refused(api, by_hand(claims(), secret=text))
    der = serialization.load_pem_public_key(PUBLIC[algorithm].encode()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert_refused(api, by_hand(claims(), secret=der))


def test_a_secret_and_a_public_key_each_verify_their_own(make_api, world, algorithm):
    api = make_api(AUTH_JWT_PUBLIC_KEY=PUBLIC[algorithm].replace("\n", "\\n"))
    assert_taken(api, token())
    assert_taken(api, token(key=PRIVATE[algorithm], algorithm=algorithm))
    assert_refused(api, token(key=OTHERS[algorithm], algorithm=algorithm))
    assert_refused(api, by_hand(claims(), secret=PUBLIC[algorithm]))
    assert_refused(api, token(key=OTHER_SECRET))


def test_a_public_key_may_be_in_a_file(make_api, world, tmp_path):
    (tmp_path / "key.pem").write_text(PUBLIC["ES256"])
    api = make_api(AUTH_JWT_SECRET="", AUTH_JWT_PUBLIC_KEY=f"@{tmp_path / 'key.pem'}", AUTH_JWT_ALGORITHMS="ES256")
    assert_taken(api, token(key=PRIVATE["ES256"], algorithm="ES256"))


@pytest.mark.parametrize(
    "alg", ['"none"', '"None"', '"NONE"', '""', "null", "1", '["HS256"]', '"hs256"', '"HS256 "', '"dir"']
)
def test_the_algorithm_is_never_read_from_the_token(api, world, alg):
    header = f'{{"alg":{alg}}}'
    assert_refused(api, by_hand(claims(), header))
    assert_refused(api, f"{b64(header)}.{b64(claims())}.")


@pytest.mark.parametrize(
    "header",
    [
        *(
            "",
            "{}",
            "[]",
            "null",
            '"HS256"',
            '{"typ":"JWT"}',
            "{",
            "[" * 3000,
            b"\xff\xfe",
            '{"alg":"HS256","crit":["exp"]}',
        ),
        *(
            '{"alg":"HS256","crit":["unknown"],"unknown":1}',
            '{"alg":"HS256","crit":[]}',
            '{"alg":"HS256","crit":"b64"}',
        ),
        *('{"alg":"HS256","b64":false,"crit":["b64"]}', '{"alg":"HS256","b64":false}', '{"alg":"HS256","kid":1}'),
    ],
)
def test_a_header_that_is_not_understood_is_refused(api, world, header):
    assert_refused(api, by_hand(claims(), header))


@pytest.mark.parametrize(
    "header",
    [
        *('{"alg":"HS256"}', '{"alg":"HS256","kid":"anything"}', '{"typ":"at+jwt","alg":"HS256"}'),
        '{"alg":"HS256","jku":"https://example.org","jwk":{},"x5u":"https://example.org"}',
    ],
)
def test_other_words_in_the_header_make_no_difference(api, world, header):
    assert_taken(api, by_hand(claims(), header))


@pytest.mark.parametrize("claim", ["exp", "iat", "sub"])
@pytest.mark.parametrize("value", [None, "null"])
def test_exp_iat_and_the_user_id_are_required(api, world, claim, value):
    assert_refused(api, by_hand(claims(**{claim: value})))


@pytest.mark.parametrize(
    ("claim", "seconds", "taken"),
    [
        *(("exp", -13, True), ("exp", 0, True), ("exp", 10**9, True), ("exp", -16, False), ("exp", -3600, False)),
        *(("iat", 13, True), ("iat", 0, True), ("iat", -(10**9), True), ("iat", 17, False), ("iat", 3600, False)),
        *(("nbf", 13, True), ("nbf", 0, True), ("nbf", -(10**9), True), ("nbf", 17, False), ("nbf", 3600, False)),
    ],
)
def test_clocks_may_differ_by_15_seconds(api, world, claim, seconds, taken):
    check = assert_taken if taken else assert_refused
    check(api, by_hand(claims(**{claim: str(int(time.time()) + seconds)})))
    check(api, by_hand(claims(**{claim: f"{int(time.time()) + seconds}.5"})))


ODD_TIMES = [
    *('"{}"', '"{}.0"', "[{}]", '{{"exp":{}}}', "true", "false", "NaN", "Infinity", "-Infinity", "1e400", "-1e400"),
    *('""', '"now"', "[]", "{{}}", '"' + "9" * 4000 + '"', "9" * 5000),
]


@pytest.mark.parametrize("text", ODD_TIMES)
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_that_is_no_number_is_refused(api, world, claim, text):
    then = int(time.time()) + (3600 if claim == "exp" else -3600)
    assert_refused(api, by_hand(claims(**{claim: text.format(then)})))


def test_a_time_of_null_that_is_not_required_is_refused(api, world):
    assert_refused(api, by_hand(claims(nbf="null")))


@pytest.mark.parametrize(
    "payload",
    ["", "null", "[]", '"x"', "1", "{", "{}", "not JSON", b"\xff", "[" * 3000, '{"a":' * 1000, '{"sub":' + "[" * 2000],
)
def test_a_payload_that_is_no_object_with_the_claims_is_refused(api, world, payload):
    assert_refused(api, by_hand(payload))


def test_claims_of_the_sites_own_make_no_difference(api, world):
    assert_taken(api, by_hand(claims(name='"Ünïcödé"', roles='["admin"]', jti='"x"', email="null", deep="[[[[]]]]")))


@pytest.mark.parametrize(
    "user_id",
    [
        *(
            "",
            "null",
            "1",
            "alice",
            "alice@example.org",
            LEARNER[:-1],
            LEARNER + "0",
            " " + LEARNER,
            LEARNER + " ",
            LEARNER + "\\n",
        ),
        *(f"{{{LEARNER}}}", f"urn:uuid:{LEARNER}", LEARNER.replace("-", ""), f"({LEARNER})", LEARNER.replace("-", "_")),
        *(
            LEARNER[:-1] + "g",
            LEARNER.replace("0", "\u0660"),
            LEARNER.replace("-", "\u2010"),
            LEARNER + "\\u0000",
            "%s",
            "'",
        ),
        *(LEARNER.replace("-", "", 1), "-" + LEARNER.replace("-", "", 1), f"{LEARNER},{STRANGER}", LEARNER * 2),
    ],
)
def test_a_user_id_that_is_no_uuid_is_refused(api, world, user_id):
    assert_refused(api, by_hand(claims(sub=f'"{user_id}"')))


@pytest.mark.parametrize(
    "user_id", ["1", "0", "1.5", "true", "false", "[]", f'["{LEARNER}"]', "{}", f'{{"id":"{LEARNER}"}}']
)
def test_a_user_id_that_is_no_string_is_refused(api, world, user_id):
    assert_refused(api, by_hand(claims(sub=user_id)))


def test_a_user_id_in_upper_case_is_the_same_learner(api, world):
    assert_taken(api, token(LEARNER.upper()))
    answer = api.delete(lesson_path(2), headers=bearer(LEARNER.upper()))
    assert ok(answer)["overall"]["completedCount"] == 0
    assert get(api, "lessons") == {"lessons": []}


@pytest.mark.parametrize(
    "user_id",
    [
        "ABCDEF01-2345-6789-abcd-ef0123456789",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ],
)
def test_a_user_id_may_be_of_any_version(api, world, user_id):
    add_user(world, user_id.lower())
    assert get(api, "summary", user_id)["totalCount"] == 1


def test_the_user_id_is_in_the_claim_that_is_configured(make_api, world):
    api = make_api(AUTH_USER_ID_CLAIM="https://example.org/user")
    for sub in (f'"{STRANGER}"', '"alice"', "1", None):
        assert_taken(api, by_hand(claims(**{"sub": sub, "https://example.org/user": f'"{LEARNER}"'})))
    for value in (None, "null", '"alice"', "5", f'["{LEARNER}"]'):
        assert_refused(api, by_hand(claims(**{"https://example.org/user": value})))


AUDIENCES = [
    ('"progress"', True),
    ('["progress"]', True),
    ('["other","progress"]', True),
    ('"other"', False),
    ('["other"]', False),
    ('"Progress"', False),
    ('"progress "', False),
    ('"progress,other"', False),
    ('"progres"', False),
    ('""', False),
    ("[]", False),
    ('["progress",1]', False),
    ("1", False),
    ("true", False),
    ("{}", False),
    ('{"progress":1}', False),
]


def test_a_token_for_an_audience_is_refused_unless_it_is_the_configured_one(make_api, world):
    without = make_api()
    for text, _ in AUDIENCES:
        assert_refused(without, by_hand(claims(aud=text)))
    api = make_api(AUTH_JWT_AUDIENCE="progress")
    for text, taken in AUDIENCES:
        (assert_taken if taken else assert_refused)(api, by_hand(claims(aud=text)))


def test_one_of_several_audiences_is_enough(make_api, world):
    api = make_api(AUTH_JWT_AUDIENCE="progress , https://api.example.org")
    for text in ('"progress"', '"https://api.example.org"', '["another", "https://api.example.org"]'):
        assert_taken(api, by_hand(claims(aud=text)))
    for text in ('"another"', '"progress , https://api.example.org"', '"progress,https://api.example.org"', "[]"):
        assert_refused(api, by_hand(claims(aud=text)))
    assert_refused(api, by_hand(claims()))


def test_a_token_of_another_issuer_is_refused(make_api, world):
    api = make_api(AUTH_JWT_ISSUER="https://example.org")
    assert_taken(api, by_hand(claims(iss='"https://example.org"')))
    for text in ('"https://example.org/"', '"https://example.com"', '"HTTPS://example.org"', '""', "1", "{}", "true"):
        assert_refused(api, by_hand(claims(iss=text)))
    assert_refused(api, by_hand(claims(iss='["https://example.org"]')))


def test_without_a_configured_issuer_any_will_do(api, world):
    assert_taken(api, by_hand(claims(iss='"https://example.org"')))


def test_a_token_over_8192_bytes_is_refused(api, world):
    header = '{"alg":"HS256"}'
    lengths = {}
    for padding in range(5950, 6020):
        text = by_hand(claims(pad=f'"{"x" * padding}"'), header)
        lengths[len(text)] = text
    longest = max(length for length in lengths if length <= 8192)
    shortest = min(length for length in lengths if length > 8192)
    assert longest >= 8190
    assert_taken(api, lengths[longest])
    assert_refused(api, lengths[shortest])


def test_a_cookie_does_not_make_up_for_a_bad_token(api, world):
    for text in ("", "bad", token(exp=1)):
        answer = api.get(
            "/api/progress/summary",
            headers={"Authorization": f"Bearer {text}", "Cookie": f"authjs.session-token={token()}"},
        )
        assert_problem(answer, "unauthenticated")


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://localhost"])
def test_a_bearer_token_is_not_affected_by_the_origin(api, world, origin):
    headers = bearer() | {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    assert ok(api.post(lesson_path(2), headers=headers))["completed"] is True
    assert ok(api.delete(lesson_path(2), headers=headers))["completed"] is False


def test_the_answer_to_a_bad_token_does_not_repeat_it(api, world):
    for text in (token("not-a-uuid-at-all"), token(exp=1), token(aud="an-audience"), "three.bad.words"):
        answer = call(api, f"Bearer {text}")
        for part in ("not-a-uuid-at-all", "an-audience", *text.split(".")):
            assert part not in answer.text + str(answer.headers)
