//! What QEMU's daemon (10.0.2) answered to the same bytes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn decode(bytes: &[u8]) -> Vec<Result<Value, String>> {
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    decoder.receive(bytes, &mut out);
    out
}

#[test]
fn errors_are_those_of_the_reference() {
    #[rustfmt::skip]
    let cases: &[(&[u8], &[&str])] = &[
        (b"nul ", &["invalid keyword 'nul'"]),
        (br#"{"a" 1}"#, &["missing : in object pair"]),
        (br#"{"a":}"#, &["expecting value"]),
        (br#"{"a":1,}"#, &["expecting value"]),
        (br#"[1,]"#, &["expecting value"]),
        (br#"[1 2]"#, &["expected separator in list"]),
        (br#"{"a":1 2}"#, &["expected separator in dict"]),
        (br#"{1:2}"#, &["key is not a string in object"]),
        (br#"}"#, &["expecting value"]),
        (br#"{"a":[}]"#, &["expecting value"]),
        (br#"{"a":tru}"#, &["invalid keyword 'tru'"]),
        (br#"{"a":"\x"}"#, &["invalid escape sequence in string"]),
        (br#"{"a":"\ud800"}"#, &["\\ud800 is not a valid Unicode character"]),
        (br#"{"a":1,"a":2}"#, &["duplicate key"]),
        (br#"{"a":01}"#, &["stray '01'", "expecting value"]),
        (b"{\"a\":-}\n", &["stray '-}'"]),
        (b"{\"a\":1.}\n", &["stray '1.}'"]),
        (b"{\"a\":\"\x7f\x01\"}", &["stray '\"\x7f\x01'", "expecting value"]),
        (b"{\"a\":%i}", &["stray '%'", "expecting value"]),
        (b"{\"a\":\"\xff\"}", &["stray '\"\u{fffd}'", "expecting value"]),
        (b"[\"\xc3\x28\"]", &["invalid UTF-8 sequence in string"]),
        (b"\"a\nb\"}", &["stray '\"a\n'", "expecting value"]),
    ];
    for (bytes, expected) in cases {
        let found = decode(bytes).into_iter().map(Result::unwrap_err);
        let expected = expected
            .iter()
            .map(|what| format!("JSON parse error, {what}"));
        assert!(
            found.eq(expected),
            "{:?}: {:?}",
            String::from_utf8_lossy(bytes),
            decode(bytes)
        );
    }
}

#[test]
fn values_stand_in_a_stream_and_not_on_lines() {
    let found = decode(b"@#$ {'a':1}{\"b\":\n[2,\r\n\t-3.5e1]}true 7\n\"x\"");
    assert_eq!(found[0], Err("JSON parse error, stray '@'".to_owned()));
    let values: Vec<_> = found.into_iter().skip(1).map(Result::unwrap).collect();
    let expected = json!([{ "a": 1 }, { "b": [2, -35.0] }, true, 7, "x"]);
    assert_eq!(Value::Array(values), expected);
}

#[test]
fn numbers_keep_what_64_bits_hold() {
    let text = b"[-9223372036854775808, 18446744073709551615, 18446744073709551616, 1e400]";
    let max = 18_446_744_073_709_551_616_f64;
    assert_eq!(decode(text), [Ok(json!([i64::MIN, u64::MAX, max, null]))]);
}

#[test]
fn depth_size_and_count_are_bounded() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(decode(&nested(MAX_NESTING))[0].is_ok());
    let too_deep = &decode(&nested(MAX_NESTING + 1))[0];
    assert_eq!(
        too_deep,
        &Err("JSON nesting depth limit exceeded".to_owned())
    );
    let long = [b"\"".as_slice(), &vec![b'x'; MAX_VALUE_BYTES]].concat();
    assert_eq!(
        decode(&long),
        [Err("JSON token size limit exceeded".to_owned())]
    );
    let many = [b"[".as_slice(), &b"1,".repeat(MAX_TOKENS / 2)].concat();
    assert_eq!(
        decode(&many)[0],
        Err("JSON token count limit exceeded".to_owned())
    );
}

proptest! {
    #[test]
    fn cuts_do_not_matter(bytes in "[\\[\\]{}:,\"'a1e.\\-\\\\u \n]{0,40}", cut in 0_usize..40) {
        let bytes = bytes.as_bytes();
        let cut = cut.min(bytes.len());
        let (mut decoder, mut out) = (Decoder::new(), Vec::new());
        decoder.receive(&bytes[..cut], &mut out);
        decoder.receive(&bytes[cut..], &mut out);
        prop_assert_eq!(out, decode(bytes));
    }

    #[test]
    fn what_serde_writes_is_read_back(value in any::<Vec<(String, i64, bool)>>()) {
        let value = json!([value]);
        prop_assert_eq!(decode(value.to_string().as_bytes()), [Ok(value)]);
    }
}
