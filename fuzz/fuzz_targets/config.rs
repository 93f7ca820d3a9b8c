//! The configuration: any text is accepted or refused with places, and what was accepted reads the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::config::parse;

fuzz_target!(|text: &str| {
    let env = |name: &str| (name == "NAME").then(|| "value".to_owned());
    match parse("fuzz.yaml", text, &env) {
        Ok(config) => {
            let dump = config.dump().to_string();
            // JSON is YAML; but a secret is not in the dump, and a text with `${` would be filled in once more.
            if !dump.contains("[redacted]") && !dump.contains("${") {
                let again = parse("dump.yaml", &dump, &env).unwrap_or_else(|report| panic!("{dump}\n{report}"));
                assert_eq!(again.digest(), config.digest(), "{dump}\n{}", again.dump());
            }
        }
        Err(report) => {
            assert!(!report.problems().is_empty(), "refused, and no problem");
            assert!(report.problems().iter().flat_map(|p| &p.place).all(|place| place.line > 0 && place.column > 0));
            assert!(report.to_string().contains("problem"));
        }
    }
});
