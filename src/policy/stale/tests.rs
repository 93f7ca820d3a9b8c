use super::*;

const AGE: Duration = Duration::from_secs(300);

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn asked<'a>(path: &'a str, headers: &'a HeaderMap) -> Asked<'a> {
    Asked { route: "r", identity: "", host: "shop", path, headers }
}

fn answer(body: &'static str, lines: &[(&'static str, &'static str)], at: Instant) -> Arc<Answer> {
    Arc::new(Answer { headers: headers(lines), body: Bytes::from_static(body.as_bytes()), at })
}

fn found(stale: &Stale, asked: &Asked<'_>, now: Instant) -> Option<Bytes> {
    stale.find(asked, AGE, now).map(|answer| answer.body.clone())
}

#[test]
fn the_last_answer_to_the_same_request() {
    let (stale, now, none) = (Stale::default(), Instant::now(), HeaderMap::new());
    let one = asked("/a?b", &none);
    stale.keep(&one, answer("first", &[], now));
    stale.keep(&one, answer("second", &[], now));
    assert_eq!(found(&stale, &one, now + AGE).as_deref(), Some(&b"second"[..]));
    assert_eq!(found(&stale, &one, now + AGE + Duration::from_nanos(1)), None, "too old");
    let others = [
        Asked { route: "s", ..one },
        Asked { identity: "spiffe://a/b", ..one },
        Asked { host: "other", ..one },
        asked("/a?c", &none),
    ];
    assert!(others.iter().all(|other| found(&stale, other, now).is_none()));
    assert!(stale.is_fresh(&one, now) && !stale.is_fresh(&one, now + 2 * FRESH));
    assert_eq!(stale.size().0, 1);
}

#[test]
fn answers_vary_as_they_say() {
    let (stale, now) = (Stale::default(), Instant::now());
    let (german, english) = (headers(&[("accept-language", "de")]), headers(&[("accept-language", "en")]));
    let vary = [("vary", "Accept-Language, accept-encoding")];
    stale.keep(&asked("/", &german), answer("hallo", &vary, now));
    assert_eq!(found(&stale, &asked("/", &english), now), None);
    stale.keep(&asked("/", &english), answer("hello", &vary, now));
    assert_eq!(found(&stale, &asked("/", &german), now).as_deref(), Some(&b"hallo"[..]));
    assert_eq!(found(&stale, &asked("/", &english), now).as_deref(), Some(&b"hello"[..]));
}

#[test]
fn what_is_somebodys_own_is_not_kept() {
    let ok = |lines: &[(&'static str, &'static str)]| may_keep(StatusCode::OK, &headers(lines));
    assert!(ok(&[]) && ok(&[("cache-control", "public, max-age=60")]) && ok(&[("vary", "accept")]));
    for (name, value) in [
        ("cache-control", "max-age=0, no-store"),
        ("cache-control", "Private=\"x\""),
        ("cache-control", "no-cache"),
        ("cache-control", "must-revalidate"),
        ("set-cookie", "a=b"),
        ("vary", "*"),
        ("vary", "accept, *"),
    ] {
        assert!(!ok(&[(name, value)]), "{name}: {value}");
    }
    assert!(!may_be_kept(&headers(&[("cache-control", "max-age=0, No-Store")])));
    assert!(may_be_kept(&headers(&[("cache-control", "no-cache")])), "that asks for a new answer");
    assert!(!may_keep(StatusCode::NOT_FOUND, &HeaderMap::new()));
    assert!(may_ask(&Method::GET, &HeaderMap::new()) && !may_ask(&Method::POST, &HeaderMap::new()));
    for name in ["authorization", "cookie", "proxy-authorization", "range"] {
        assert!(!may_ask(&Method::GET, &headers(&[(name, "x")])), "{name}");
    }
}

#[test]
fn it_is_bounded() {
    let (stale, now, none) = (Stale::default(), Instant::now(), HeaderMap::new());
    for n in 0..2 * ANSWERS_MAX {
        stale.keep(&asked(&format!("/{n}"), &none), answer("x", &[], now));
    }
    assert_eq!(stale.size().0, ANSWERS_MAX);
    assert!(found(&stale, &asked("/0", &none), now).is_none(), "the oldest goes first");
    let last = format!("/{}", 2 * ANSWERS_MAX - 1);
    assert!(found(&stale, &asked(&last, &none), now).is_some());
    for n in 0..100 {
        let answer = Answer { headers: HeaderMap::new(), body: vec![0; BODY_MAX].into(), at: now };
        stale.keep(&asked(&format!("/large/{n}"), &none), Arc::new(answer));
        assert!(stale.size().1 <= BYTES_MAX);
    }
    for n in 0..100u32 {
        let headers = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from(n))]);
        stale.keep(&asked("/varies", &headers), answer("x", &[("vary", "accept")], now));
    }
    let kept = stale.kept();
    assert!(kept.by_question.values().all(|variants| variants.len() <= VARIANTS_MAX));
    let entries = || kept.by_question.values().flatten();
    assert_eq!((entries().count(), entries().map(|entry| entry.bytes).sum::<usize>()), (kept.by_age.len(), kept.bytes));
}
