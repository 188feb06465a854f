//! Cached pages of users that a session identifies: by tower-sessions alone, and by axum-login.

pub mod by_axum_login;
pub mod by_tower_sessions;
