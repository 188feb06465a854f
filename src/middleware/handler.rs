//! What the layer requires of the inner service.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

/// An HTTP service that can also be called from a background task. `A` is the type of request bodies.
pub(crate) trait Handler<A>:
    Service<Request<A>, Response = Response<Self::Body>, Error: Send, Future: Send>
    + Clone
    + Send
    + 'static
{
    /// The type of response bodies.
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

/// The result of a request.
pub(crate) type HandlerResult<S, A> =
    Result<Response<super::body::Body<<S as Handler<A>>::Body>>, <S as Service<Request<A>>>::Error>;
