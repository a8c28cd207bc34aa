//! What the command line prints, as snapshots under review. `TRYCMD=overwrite cargo test --test cli` writes them anew.

#[test]
fn command_line_prints_what_was_reviewed() {
    trycmd::TestCases::new().case("tests/cli/*.trycmd");
}
