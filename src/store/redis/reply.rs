//! Replies of the wrong type.

use deadpool_redis::redis::Value;

use crate::store::StoreError;

/// The error for a reply of the wrong type. Only its type may be shown, not its contents.
pub(super) fn unexpected(command: &str, value: &Value) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "a string",
        Value::Okay => "OK",
        _ => "something else",
    };
    StoreError::Backend(format!("Redis replied to {command} with {kind}").into())
}
