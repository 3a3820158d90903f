//! What the SenML decoder promises, on the examples of RFC 8428 (sections 5 and 6) in our own rendering.

use tributary_contract::reject::RejectReason;
use tributary_contract::time::Timestamp;

use crate::config::Decoder;
use crate::ingest::decode::tests::{config, source};
use crate::ingest::decode::{Decoders, Reject};

/// Noon of 2024-05-01, when everything is received.
const AT: i64 = 1_714_564_800;

/// Each reading as `device metric value unit @seconds`, the time of receipt as `now` and differences to it.
fn read(payload: &[u8]) -> Result<Vec<String>, Reject> {
    let mut decoders = Decoders::new(&config(vec![source("senml/#", Decoder::Senml)])).unwrap();
    let decoded = decoders.decode(0, "senml/x", payload, Timestamp(AT * 1_000_000), false)?;
    let shown = decoded.readings.into_iter().map(|r| {
        let past = (r.ts.micros() - AT * 1_000_000) as f64 / 1e6;
        let at = match past {
            0.0 => "now".to_owned(),
            _ if past.abs() < 1e6 => format!("now{past:+}"),
            _ => format!("{}", r.ts.micros() as f64 / 1e6),
        };
        format!("{} {} {} {} @{at}", r.device, r.metric, r.value, r.unit.as_deref().unwrap_or("-"))
    });
    Ok(shown.collect())
}

fn json(payload: &str) -> Vec<String> {
    read(payload.as_bytes()).unwrap()
}

fn refused(payload: &str) -> (RejectReason, String) {
    let reject = read(payload.as_bytes()).unwrap_err();
    (reject.reason, reject.detail)
}

const URN: &str = "urn:dev:ow:10e2073a01080063";

#[test]
fn a_single_point_is_its_device_s_value_now() {
    let pack = format!(r#"[{{"n":"{URN}","u":"Cel","v":23.1}}]"#);
    assert_eq!(json(&pack), [format!("{URN} value 23.1 Cel @now")]);
}

#[test]
fn base_name_and_name_are_device_and_metric() {
    let pack = format!(
        r#"[{{"bn":"{URN}:","n":"voltage","t":0,"u":"V","v":120.1}},{{"n":"current","t":0,"u":"A","v":1.2}}]"#
    );
    assert_eq!(json(&pack), [format!("{URN} voltage 120.1 V @now"), format!("{URN} current 1.2 A @now")]);
}

#[test]
fn base_fields_hold_until_others_come_and_times_count_from_the_base_time() {
    let pack = r#"[
        {"bver":5,"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","n":"voltage","u":"V","v":120.1},
        {"n":"current","t":-5,"v":1.2},
        {"n":"current","t":-1,"v":0.16e1},
        {"bt":1276020080,"bu":"mA","n":"current","t":2,"v":1700}
    ]"#;
    let device = "urn:dev:ow:10e2073a0108006";
    assert_eq!(
        json(pack),
        [
            format!("{device} voltage 120.1 V @1276020076.001"),
            format!("{device} current 1.2 A @1276020071.001"),
            format!("{device} current 1.6 A @1276020075.001"),
            format!("{device} current 1700 mA @1276020082"),
        ]
    );
}

#[test]
fn a_name_may_come_from_the_base_alone_and_a_unit_from_the_record() {
    let pack = format!(
        r#"[{{"bn":"{URN}","bt":1.320067464e+09,"bu":"%RH","v":20}},{{"u":"lon","v":24.30621}},
            {{"u":"lat","v":60.07965}},{{"t":60,"v":20.3}},{{"t":150,"u":"%EL","v":98}}]"#
    );
    assert_eq!(
        json(&pack),
        [
            format!("{URN} value 20 %RH @1320067464"),
            format!("{URN} value 24.30621 lon @1320067464"),
            format!("{URN} value 60.07965 lat @1320067464"),
            format!("{URN} value 20.3 %RH @1320067524"),
            format!("{URN} value 98 %EL @1320067614"),
        ]
    );
}

#[test]
fn one_pack_may_hold_several_devices() {
    let pack = r#"[
        {"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
        {"n":"humidity","u":"%RH","v":30},
        {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},
        {"n":"humidity","u":"%RH","v":67}
    ]"#;
    assert_eq!(
        json(pack),
        [
            "2001:db8::2 temperature 25.2 Cel @1320078429",
            "2001:db8::2 humidity 30 %RH @1320078429",
            "2001:db8::1 temperature 12.3 Cel @1320078429",
            "2001:db8::1 humidity 67 %RH @1320078429",
        ]
    );
}

#[test]
fn values_are_numbers_texts_truths_and_data_and_a_record_of_bases_alone_is_none() {
    let pack = format!(
        r#"[{{"bn":"{URN}:"}},{{"n":"temp","u":"Cel","v":23.1}},{{"n":"label","vs":"Machine Room"}},
            {{"n":"open","vb":false}},{{"n":"nfc-reader","vd":"aGkgCg"}}]"#
    );
    assert_eq!(
        json(&pack),
        [
            format!("{URN} temp 23.1 Cel @now"),
            format!("{URN} label Machine Room - @now"),
            format!("{URN} open false - @now"),
            format!("{URN} nfc-reader aGkgCg - @now"),
        ]
    );
}

#[test]
fn base_values_and_base_sums_are_added_and_what_is_missing_beside_them_is_nothing() {
    let pack = r#"[
        {"bn":"meter/","bv":20,"bs":1000,"bu":"W","n":"power","v":1.5,"s":25.5},
        {"n":"power","v":2},
        {"n":"energy","u":"J","s":7},
        {"bv":0,"bs":0,"n":"power","v":3,"s":4}
    ]"#;
    assert_eq!(
        json(pack),
        [
            "meter power 21.5 W @now",
            "meter power.sum 1025.5 W @now",
            "meter power 22 W @now",
            "meter power.sum 1000 W @now",
            "meter energy.sum 1007 J @now",
            "meter power 3 W @now",
            "meter power.sum 4 W @now",
        ]
    );
    assert_eq!(json(r#"[{"bn":"meter/","n":"power","v":3}]"#), ["meter power 3 - @now"]);
}

#[test]
fn below_two_to_the_28_a_time_counts_from_now_and_from_there_on_from_1970() {
    let pack = r#"[{"bn":"d/","n":"a","t":-90.5,"v":1},{"n":"b","t":30,"v":2},{"n":"c","t":268435456,"v":3},
                   {"bt":-60,"n":"d","t":-0.25,"v":4}]"#;
    assert_eq!(
        json(pack),
        ["d a 1 - @now-90.5", "d b 2 - @now+30", "d c 3 - @268435456", "d d 4 - @now-60.25"]
    );
}

#[test]
fn unknown_fields_are_passed_over_but_for_those_that_must_be_understood() {
    let link = r#"[{"bn":"d/","l":"[{\"href\":\"h\",\"foo\":\"bar\"}]","n":"humidity","u":"%RH","v":80}]"#;
    assert_eq!(json(link), ["d humidity 80 %RH @now"]);
    let (reason, said) = refused(r#"[{"n":"d/a","v":1,"secret_":5}]"#);
    assert!(reason == RejectReason::Malformed && said.contains("\"secret_\""), "{reason}: {said}");
    let (reason, said) = refused(r#"[{"bver":11,"n":"d/a","v":1}]"#);
    assert!(reason == RejectReason::Malformed && said.contains("version"), "{reason}: {said}");
    assert_eq!(json(r#"[{"bver":10,"bn":"d/","n":"a","v":1}]"#), ["d a 1 - @now"]);
    for wrong in [
        r#"{"n":"a","v":1}"#,
        r#"[1]"#,
        r#"[{"n":1,"v":1}]"#,
        r#"[{"n":"a","v":"1"}]"#,
        r#"[{"n":"a","vb":1}]"#,
    ] {
        assert_eq!(refused(wrong).0, RejectReason::Malformed, "{wrong}");
    }
}

/// A text string of CBOR up to 255 bytes.
fn text(text: &str) -> Vec<u8> {
    let size = u8::try_from(text.len()).unwrap();
    let head = if size < 24 { vec![0x60 | size] } else { vec![0x78, size] };
    [head, text.as_bytes().to_vec()].concat()
}

#[test]
fn cbor_says_the_same_by_numbers_for_labels() {
    let double = |n: f64| [vec![0xfb], n.to_be_bytes().to_vec()].concat();
    // Labels: -1 bver, -2 bn, -3 bt, -4 bu; 0 n, 1 u, 2 v, 4 vb, 5 s, 6 t, 8 vd.
    let pack = [
        vec![0x84, 0xa7],
        [vec![0x21], text("urn:dev:ow:10e2073a0108006:"), vec![0x22], double(1_276_020_076.001)].concat(),
        [vec![0x23], text("A"), vec![0x20, 0x05, 0x00], text("voltage"), vec![0x01], text("V")].concat(),
        [vec![0x02], double(120.1)].concat(),
        // t -5, and v 1.5 as a half.
        [vec![0xa3, 0x00], text("current"), vec![0x06, 0x24, 0x02, 0xf9, 0x3e, 0x00]].concat(),
        [vec![0xa3, 0x00], text("open"), vec![0x04, 0xf4, 0x05, 0x03]].concat(),
        [vec![0xa2, 0x00], text("nfc"), vec![0x08, 0x44], b"hi \n".to_vec()].concat(),
    ]
    .concat();
    let device = "urn:dev:ow:10e2073a0108006";
    assert_eq!(
        read(&pack).unwrap(),
        [
            format!("{device} voltage 120.1 V @1276020076.001"),
            format!("{device} current 1.5 A @1276020071.001"),
            format!("{device} open false A @1276020076.001"),
            format!("{device} open.sum 3 A @1276020076.001"),
            format!("{device} nfc aGkgCg A @1276020076.001"),
        ]
    );
    for cut in 0..pack.len() {
        assert!(read(&pack[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn data_too_long_for_a_reading_costs_no_other_of_its_pack() {
    let long = [vec![0x82, 0xa2, 0x00], text("blob"), vec![0x08, 0x58, 200], vec![7; 200]].concat();
    let pack = [long, vec![0xa2, 0x00], text("a"), vec![0x02, 0x01]].concat();
    let read = read(&pack).unwrap();
    assert!(read.len() == 1 && read[0].ends_with("a 1 - @now"), "{read:?}");
}
