//! A connection that speaks the replication protocol (PostgreSQL manual, sections 54.2 and 54.4).

use std::io;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    AuthenticationSaslBody, DataRowBody, ErrorResponseBody, Header, Message,
};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::StreamError;
use crate::options::StreamOptions;
use crate::socket::{self, Socket};

/// The largest message, in bytes: a larger one ends the stream.
const LARGEST: usize = 512 << 20;

/// How many bytes are read at once, and past which size a message's memory is not used again.
const CHUNK: usize = 8 << 10;
const KEPT: usize = 1 << 20;

/// The server's reply to `START_REPLICATION`, after which both sides send when they like. `postgres-protocol` lacks it.
const COPY_BOTH: u8 = b'W';

/// The time from which Postgres counts, after that of Unix.
const EPOCH: Duration = Duration::from_hours(262_968);

/// Settings of the session, so that values read as everywhere, whatever the role or the database has set. The last bounds
/// the wait for the end of running transactions.
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 \
                        -c bytea_output=hex -c search_path=pg_catalog -c lock_timeout=60s";

/// A row's values as text; `None` is NULL.
pub(crate) type Row = Vec<Option<String>>;

/// A message of the server on a stream.
pub(crate) enum Delivery {
    /// A message of the plugin.
    Message(Bytes),
    /// Everything before the position `end` was sent.
    KeepAlive { end: u64, wants_reply: bool },
}

/// A connection to one database, for SQL, for commands of the replication protocol, and then for a stream.
pub(crate) struct ReplicationConnection {
    socket: Box<dyn Socket>,
    input: BytesMut,
    output: BytesMut,
}

impl ReplicationConnection {
    pub(crate) async fn open(options: &StreamOptions) -> Result<Self, StreamError> {
        let socket = socket::connect(&options.address, &options.tls).await?;
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let mut connection = Self { socket, input, output };
        connection.log_in(options).await?;
        Ok(connection)
    }

    async fn log_in(&mut self, options: &StreamOptions) -> Result<(), StreamError> {
        let parameters = [
            ("user", options.user.as_str()),
            ("database", options.database.as_str()),
            ("replication", "database"),
            ("client_encoding", "UTF8"),
            ("application_name", "tidegate"),
            ("options", SETTINGS),
        ];
        frontend::startup_message(parameters, &mut self.output)?;
        self.send().await?;
        let (user, password) = (options.user.as_bytes(), options.password.as_bytes());
        loop {
            match self.receive().await? {
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password, &mut self.output)?;
                    self.send().await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user, password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.output)?;
                    self.send().await?;
                }
                Message::AuthenticationSasl(body) => self.prove(&body, password).await?,
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_) => {}
                _ => {
                    let why = "the server requires an authentication method other than a password or a client \
                               certificate: change pg_hba.conf for this role";
                    return Err(StreamError::Options(why.to_owned()));
                }
            }
        }
    }

    /// Proves that it knows the password, and has the server prove that it does (RFC 5802).
    async fn prove(
        &mut self,
        offered: &AuthenticationSaslBody,
        password: &[u8],
    ) -> Result<(), StreamError> {
        if !offered.mechanisms().any(|mechanism| Ok(mechanism == SCRAM_SHA_256))? {
            return Err(StreamError::Options("the server does not offer SCRAM-SHA-256".to_owned()));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.output)?;
        self.send().await?;
        let Message::AuthenticationSaslContinue(challenge) = self.receive().await? else {
            return Err(StreamError::Decode(
                "the server did not reply to the SCRAM authentication with a challenge",
            ));
        };
        scram.update(challenge.data())?;
        frontend::sasl_response(scram.message(), &mut self.output)?;
        self.send().await?;
        let Message::AuthenticationSaslFinal(proof) = self.receive().await? else {
            return Err(StreamError::Decode("no proof that the server knows the password"));
        };
        Ok(scram.finish(proof.data())?)
    }

    /// Runs SQL, or a command of the replication protocol, and returns its rows.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, StreamError> {
        frontend::query(sql, &mut self.output)?;
        self.send().await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.receive().await {
                Ok(Message::DataRow(body)) => rows.push(values(&body)?),
                Ok(Message::ReadyForQuery(_)) => return refused.map_or(Ok(rows), Err),
                Ok(_) => {}
                Err(error @ StreamError::Server { .. }) => refused = Some(error),
                // After a fatal error, the server closes the connection.
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }

    /// Starts the stream of a slot, from where the slot is.
    pub(crate) async fn start(&mut self, slot: &str, publication: &str) -> Result<(), StreamError> {
        let publication = format!("\"{}\"", publication.replace('"', "\"\"")).replace('\'', "''");
        let command = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 \
             (proto_version '1', publication_names '{publication}', messages 'true')"
        );
        frontend::query(&command, &mut self.output)?;
        self.send().await?;
        loop {
            let (tag, length) = self.fill().await?;
            if tag == COPY_BOTH {
                self.input.advance(length);
                return Ok(());
            }
            self.receive().await?;
        }
    }

    /// The next message of the server on a started stream. This is cancel safe.
    pub(crate) async fn deliver(&mut self) -> Result<Delivery, StreamError> {
        loop {
            match self.receive().await? {
                Message::CopyData(body) => return decode(body.into_bytes()),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(StreamError::Ended),
            }
        }
    }

    /// Confirms that everything before `position` was read, so that the server can discard it.
    #[expect(clippy::disallowed_methods, reason = "the server only shows this time")]
    pub(crate) async fn confirm(&mut self, position: u64) -> Result<(), StreamError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + EPOCH);
        let now = i64::try_from(now.unwrap_or_default().as_micros()).unwrap_or_default();
        let mut status = BytesMut::new();
        status.put_u8(b'r');
        // The positions that were received, flushed and applied.
        (0..3).for_each(|_| status.put_u64(position));
        status.put_i64(now);
        status.put_u8(0);
        frontend::CopyData::new(status)?.write(&mut self.output);
        self.send().await
    }

    async fn send(&mut self) -> Result<(), StreamError> {
        self.socket.write_all_buf(&mut self.output).await?;
        Ok(self.socket.flush().await?)
    }

    /// The next message; an error that the server sends is an error. This is cancel safe.
    async fn receive(&mut self) -> Result<Message, StreamError> {
        let (_, length) = self.fill().await?;
        let message = Message::parse(&mut self.input)?;
        if length > KEPT {
            self.input = BytesMut::from(&self.input[..]);
        }
        match message {
            Some(Message::ErrorResponse(body)) => Err(refusal(&body)?),
            Some(message) => Ok(message),
            None => Err(StreamError::Decode("a message that ends too early")),
        }
    }

    /// Reads until a message is complete, and returns its tag and its length. This is cancel safe.
    async fn fill(&mut self) -> Result<(u8, usize), StreamError> {
        loop {
            let mut missing = CHUNK;
            if let Some(header) = Header::parse(&self.input)? {
                // The tag is not counted.
                let length =
                    usize::try_from(header.len()).map_or(usize::MAX, |it| it.saturating_add(1));
                if length > LARGEST {
                    return Err(StreamError::Decode("a message of more than 512 MB"));
                }
                if self.input.len() >= length {
                    return Ok((header.tag(), length));
                }
                missing = missing.max(length - self.input.len());
            }
            self.input.reserve(missing);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(StreamError::Ended);
            }
        }
    }
}

fn decode(mut bytes: Bytes) -> Result<Delivery, StreamError> {
    let short = |_| StreamError::Decode("a message that ends too early");
    match bytes.try_get_u8().map_err(short)? {
        b'w' => {
            // Where it begins and where the log ends, and the server's clock.
            let header = 8 + 8 + 8;
            if bytes.len() < header {
                return Err(StreamError::Decode("a message that ends too early"));
            }
            bytes.advance(header);
            Ok(Delivery::Message(bytes))
        }
        b'k' => {
            let end = bytes.try_get_u64().map_err(short)?;
            let _clock = bytes.try_get_u64().map_err(short)?;
            let wants_reply = bytes.try_get_u8().map_err(short)? == 1;
            Ok(Delivery::KeepAlive { end, wants_reply })
        }
        _ => Err(StreamError::Decode("an unknown message")),
    }
}

fn values(body: &DataRowBody) -> Result<Row, StreamError> {
    let text = |range| String::from_utf8_lossy(&body.buffer()[range]).into_owned();
    Ok(body.ranges().map(|range| Ok(range.map(text))).collect()?)
}

fn refusal(body: &ErrorResponseBody) -> io::Result<StreamError> {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Some(field) = fields.next()? {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = value(),
            b'M' => message = value(),
            _ => {}
        }
    }
    Ok(StreamError::Server { code, message })
}
