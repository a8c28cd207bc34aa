//! Whether what a document says of a receiver can be, and keeps what proves who we are from others.

use std::net::IpAddr;

use ureq::http::Uri;

use super::{Http, Nats, Speaks, To};

/// What is wrong with it.
pub(super) fn check(to: &To) -> Result<(), String> {
    match to {
        To::Http(http) => check_http(http),
        To::Nats(nats) => check_nats(nats),
        To::File(_) | To::Stdout | To::Journald(_) | To::Syslog(_) => Ok(()),
    }
}

fn check_http(http: &Http) -> Result<(), String> {
    if http.hmac_key_file.is_some() != (http.speaks == Speaks::Webhook) {
        return Err("a webhook has an `hmacKeyFile`, and nothing else has".to_owned());
    }
    if http.index.is_some() && http.speaks != Speaks::ElasticBulk {
        return Err("only `elastic-bulk` has an `index`".to_owned());
    }
    let is_secret = check_url(&http.url, "https", "http")?;
    if let Some(path) = &http.token_file
        && !is_secret
        && !http.allow_plain_text
    {
        return Err(readable(&format!("the token in `{}`", path.display()), &http.url));
    }
    Ok(())
}

fn check_nats(nats: &Nats) -> Result<(), String> {
    let is_token =
        |token: &str| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic() && !"*>".contains(c));
    if nats.subject.len() > 256 || nats.subject.starts_with('$') || !nats.subject.split('.').all(is_token) {
        return Err("a subject is of words with points between them, without `*` and `>`".to_owned());
    }
    if nats.user.is_some() != nats.password_file.is_some() {
        return Err("a `user` has a `passwordFile`, and it a `user`".to_owned());
    }
    let proofs = [&nats.credentials_file, &nats.token_file, &nats.password_file];
    let mut proofs = proofs.into_iter().flatten();
    let proof = proofs.next();
    if proofs.next().is_some() {
        return Err("it has one of `credentialsFile`, `tokenFile` and `passwordFile`".to_owned());
    }
    let is_secret = check_url(&nats.url, "tls", "nats")?;
    // Of credentials the seed is not sent; but there are users to whom the server asks no signature.
    if let Some(path) = proof
        && !is_secret
        && !nats.allow_plain_text
    {
        return Err(readable(&format!("what `{}` holds", path.display()), &nats.url));
    }
    Ok(())
}

fn readable(what: &str, url: &str) -> String {
    format!("anybody on the way to `{url}` could read {what}; `allowPlainText: true` permits that")
}

/// Whether nobody on the way can read what is sent there.
fn check_url(url: &str, secret: &str, plain: &str) -> Result<bool, String> {
    let invalid = || format!("its URL is neither `{secret}://` nor `{plain}://` and a host");
    let (scheme, _) = url.split_once("://").ok_or_else(invalid)?;
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    let authority = uri.authority().ok_or_else(invalid)?;
    if authority.as_str().contains('@') {
        return Err("its URL names who we are: that is in files".to_owned());
    }
    if scheme == secret {
        Ok(true)
    } else if scheme == plain {
        Ok(is_this_host(authority.host()))
    } else {
        Err(invalid())
    }
}

fn is_this_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::{SettingsError, parse};

    fn parsed(sink: &str) -> Result<(), SettingsError> {
        let text =
            format!("apiVersion: enforcer/v1\nkind: Sinks\nspec:\n  sinks:\n  - {{ name: a, {sink} }}\n");
        parse(text.as_bytes()).map(drop)
    }

    #[test]
    fn what_proves_who_we_are_is_not_sent_for_all_to_read() {
        for (url, is_fine) in [
            ("https://siem.example/x", true),
            ("http://siem.example/x", false),
            ("http://10.0.0.1:8088/x", false),
            ("http://127.0.0.1.example/x", false),
            ("http://localhost.example:80/", false),
            ("http://127.0.0.1:8088/x", true),
            ("http://127.9.9.9/x", true),
            ("http://[::1]:8088/x", true),
            ("http://[::ffff:127.0.0.1]/x", true),
            ("http://localhost:8088/x", true),
        ] {
            for (what, may_be_plain) in
                [("tokenFile: /t", is_fine), ("tokenFile: /t, allowPlainText: true", true), ("ca: /c", true)]
            {
                let outcome = parsed(&format!("http: {{ url: \"{url}\", as: splunk-hec, {what} }}"));
                assert_eq!(outcome.is_ok(), may_be_plain, "{url} {what}: {outcome:?}");
                if let Err(error) = outcome {
                    let error = error.to_string();
                    assert!(
                        ["sink `a`", "`/t`", "allowPlainText", url].iter().all(|it| error.contains(it)),
                        "{error}"
                    );
                }
            }
        }
        for (url, what, is_fine) in [
            ("nats://nats.example:4222", "tokenFile: /t", false),
            ("nats://nats.example:4222", "user: u, passwordFile: /t", false),
            ("nats://nats.example:4222", "user: u, passwordFile: /t, allowPlainText: true", true),
            ("nats://nats.example:4222", "credentialsFile: /t", false),
            ("nats://nats.example:4222", "subject: x", true),
            ("nats://127.0.0.1:4222", "tokenFile: /t", true),
            ("tls://nats.example:4222", "tokenFile: /t", true),
        ] {
            let outcome = parsed(&format!("nats: {{ url: \"{url}\", {what} }}"));
            assert_eq!(outcome.is_ok(), is_fine, "{url} {what}: {outcome:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (sink, expect) in [
            ("nats: { url: \"tls://x\", subject: \"a.*\" }", "a subject is"),
            ("nats: { url: \"tls://x\", subject: \"a b\" }", "a subject is"),
            ("nats: { url: \"tls://x\", subject: \"a..b\" }", "a subject is"),
            ("nats: { url: \"tls://x\", subject: \"$JS.API\" }", "a subject is"),
            ("nats: { url: \"http://x\" }", "neither `tls://` nor `nats://`"),
            ("nats: { url: \"x:4222\" }", "neither `tls://` nor `nats://`"),
            ("nats: { url: \"tls://u:p@x\" }", "that is in files"),
            ("nats: { url: \"tls://x\", user: u }", "has a `passwordFile`"),
            ("nats: { url: \"tls://x\", tokenFile: /t, credentialsFile: /c }", "it has one of"),
            ("http: { url: \"https://u:p@x/\", as: otlp }", "that is in files"),
            ("http: { url: \"HTTP://x/\", as: otlp }", "neither `https://`"),
            ("http: { url: \"https:///x\", as: otlp }", "and a host"),
            ("http: { url: \"https://x\", as: otlp, index: i }", "only `elastic-bulk`"),
        ] {
            let error = parsed(sink).unwrap_err().to_string();
            assert!(error.contains(expect) && !error.contains("u:p"), "{sink}: {error}");
        }
    }
}
