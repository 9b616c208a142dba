#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = holdfast_tests::fuzz::dns_answers(data);
});
