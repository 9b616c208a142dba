#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = holdfast_tests::fuzz::kms_answer(data);
});
