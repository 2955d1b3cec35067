//! The little of HTTP/1.1 that a scrape needs: one `GET /metrics`, one answer, and goodbye.

use httparse::{EMPTY_HEADER, Error, Header, Request, Status};

/// Most bytes of a request: ten times what any client of this kind sends.
pub(super) const MOST_BYTES: usize = 8 << 10;

/// Most lines of a request's head.
const MOST_HEADERS: usize = 64;

/// The one thing that there is.
pub(super) const PATH: &str = "/metrics";

/// Why a client gets no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no request, or one with a body.
    Bad,
    /// There is something else at that path: nothing.
    NotFound,
    /// It wants to do something else than read.
    Method,
    /// It goes on and on.
    TooLarge,
    /// It speaks another version.
    Version,
}

/// What a client asks for that has sent this much: nothing yet, the page, or what it cannot have.
pub(super) fn asked(bytes: &[u8]) -> Option<Result<(), Refusal>> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(_)) => Some(judge(&request)),
        Ok(Status::Partial) if bytes.len() < MOST_BYTES => None,
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => Some(Err(Refusal::TooLarge)),
        Err(Error::Version) => Some(Err(Refusal::Version)),
        Err(
            Error::HeaderName | Error::HeaderValue | Error::NewLine | Error::Status | Error::Token,
        ) => Some(Err(Refusal::Bad)),
    }
}

fn judge(request: &Request<'_, '_>) -> Result<(), Refusal> {
    let named = |name: &'static str| {
        let headers = request.headers.iter();
        headers.filter(move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name))
    };
    // A request of version 1.1 names its host, once.
    let hosts = named("host").count();
    if hosts > 1 || (hosts == 0 && request.version == Some(1)) {
        return Err(Refusal::Bad);
    }
    let has_body = named("transfer-encoding").next().is_some()
        || named("content-length").any(|length| length.value != b"0");
    if has_body {
        return Err(Refusal::Bad);
    }
    if request.path != Some(PATH) {
        return Err(Refusal::NotFound);
    }
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    Ok(())
}

/// An answer with its head.
pub(super) fn answer(page: Result<&str, Refusal>, content_type: &str) -> Vec<u8> {
    let (status, more, content_type, body) = match page {
        Ok(page) => ("200 OK", "", content_type, page),
        Err(refusal) => {
            let (status, more, body) = refusal.words();
            (status, more, "text/plain; charset=utf-8", body)
        }
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

impl Refusal {
    /// Its status, what its head has besides, and what it says.
    const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Bad => ("400 Bad Request", "", "GET /metrics, without a body\n"),
            Self::NotFound => ("404 Not Found", "", "there is nothing but /metrics\n"),
            Self::Method => (
                "405 Method Not Allowed",
                "Allow: GET\r\n",
                "there is nothing to do but GET\n",
            ),
            Self::TooLarge => (
                "431 Request Header Fields Too Large",
                "",
                "a request has at most 8192 bytes and 64 headers\n",
            ),
            Self::Version => (
                "505 HTTP Version Not Supported",
                "",
                "this server speaks HTTP/1.1\n",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_judged_as_drawn() {
        let rows: &[(&str, Option<Result<(), Refusal>>)] = &[
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(Ok(()))),
            ("GET /metrics HTTP/1.0\r\n\r\n", Some(Ok(()))),
            (
                "GET /metrics HTTP/1.1\r\nHOST: a\r\nContent-Length: 0\r\n\r\n",
                Some(Ok(())),
            ),
            ("", None),
            ("GET /metr", None),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", None),
            ("GET /metrics HTTP/1.1\r\n\r\n", Some(Err(Refusal::Bad))),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                Some(Err(Refusal::Bad)),
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
                Some(Err(Refusal::Bad)),
            ),
            (
                "GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                Some(Err(Refusal::Bad)),
            ),
            ("\x16\x03\x01\x02\x00\x01", Some(Err(Refusal::Bad))),
            ("GET /metrics\r\n\r\n", Some(Err(Refusal::Bad))),
            (
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::NotFound)),
            ),
            (
                "GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::NotFound)),
            ),
            (
                "GET /metrics/../x HTTP/1.1\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::NotFound)),
            ),
            (
                "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::Method)),
            ),
            (
                "HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::Method)),
            ),
            (
                "GET /metrics HTTP/2.0\r\nHost: a\r\n\r\n",
                Some(Err(Refusal::Version)),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(asked(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn a_request_without_end_is_bounded() {
        let long = format!("GET /metrics HTTP/1.1\r\nHost: {}", "a".repeat(MOST_BYTES));
        let bytes = long.as_bytes();
        assert_eq!(asked(&bytes[..MOST_BYTES - 1]), None);
        assert_eq!(asked(&bytes[..MOST_BYTES]), Some(Err(Refusal::TooLarge)));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
        assert_eq!(asked(many.as_bytes()), Some(Err(Refusal::TooLarge)));
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let page = answer(Ok("a 1\n"), "text/x");
        let text = String::from_utf8(page).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\nConnection: close\r\n\r\na 1\n"
        );
        let refused = String::from_utf8(answer(Err(Refusal::Method), "text/x")).unwrap();
        assert!(
            refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET\r\n"),
            "{refused}"
        );
    }
}
