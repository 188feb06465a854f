//! What PostgreSQL 17 and 18 brought. These tests are ignored, since an older server may be installed;
//! `scripts/test --postgres VERSION` runs those that the version has.

mod since_17;
mod since_18;
