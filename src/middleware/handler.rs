//! What the layer asks of the service inside it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

/// A service of HTTP that can be called by a task of its own; for requests with bodies of `A`.
pub(crate) trait Handler<A>:
    Service<Request<A>, Response = Response<Self::Body>, Error: Send, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// Of its answers.
    type Body: HttpBody<Data = Bytes, Error: Send> + Send + 'static;
}

impl<S, A, B> Handler<A> for S
where
    S: Service<Request<A>, Response = Response<B>, Error: Send, Future: Send>
        + Clone
        + Send
        + 'static,
    B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
{
    type Body = B;
}

/// What becomes of a request.
pub(crate) type HandlerResult<S, A> =
    Result<Response<super::body::Body<<S as Handler<A>>::Body>>, <S as Service<Request<A>>>::Error>;
