//! Upload: brings sealed segments into the bucket, each once, and finds out when they may leave the gateway.
//!
//! # What comes in, what goes out
//!
//! In: entries of the outbox ([`Entry`](crate::buffer::entry::Entry)), each a numbered file that never changes. Out: one
//! object per entry, under a name that only this gateway writes and that is written once; and, much later, the
//! permission to forget the entry, given by the receiver through its receipt.
//!
//! # One step at a time
//!
//! ```text
//!            Put ────────────────────────────────────────────┐
//!   Sealed ──┤                                               ├──▶ Delivered ──receipt──▶ released, file removed
//!            CreateMultipart ─▶ Uploading ─▶ … ─▶ Complete ──┘
//!                                  ▲  UploadPart │
//!                                  └──ListParts──┘
//! ```
//!
//! [`step::next_step`] says what to ask of the bucket, [`perform::perform`] asks it, [`classify::classify`] turns every
//! answer that isn't success into one of a few outcomes, and [`step::advance`] says what the entry is afterwards. The
//! first and the last are pure; between them nothing decides. The caller saves the entry after each step and before the
//! next one.
//!
//! Every request that creates an object carries `If-None-Match: *`. So a name is written once, whoever asks how often,
//! and "the name is taken" is the only difference that a repetition makes. A store that ignores the condition is found
//! out by [`probe`] before anything is entrusted to it.
//!
//! Several entries may be on their way at once, on links that carry them; each has its own steps, and one loop settles what
//! comes of them, one after the other. Which one goes next, and when, is the policy of the [`link`].
//!
//! # What each answer means
//!
//! | Answer | Means | Next |
//! |---|---|---|
//! | success | the bucket has it | delivered, or the next part |
//! | 412 | the name is taken: by us, with the reply lost, or by another | look: our digest is success, another is *superseded* |
//! | 409 to Put | two requests at once for one name | the same again |
//! | 409, 5xx, 200 with an error, or no reply to Complete | it may have happened | look, then list the parts |
//! | no reply to Put | it may have happened | look, then send again |
//! | `NoSuchUpload` | given up by the bucket, or completed by ourselves | look, then begin anew |
//! | 404 to a look | not there | send again |
//! | 403 to a look | *unknown*: absent objects look so to those who may not list | send again, create-only; after a 412, wait |
//! | 503, `SlowDown`, no connection | the link or the store isn't well | later, with growing pauses, for all entries |
//! | `ExpiredToken`, unknown keys, nobody gives any now | other keys may be had | the same, with fresh keys |
//! | `RequestTimeTooSkewed` | our clock is wrong | the same, signed by the store's time |
//! | 403, `NoSuchBucket`, wrong region | the store takes nothing from us | stop, say so, try again every five minutes |
//! | other 4xx with a code of the store | it will never take this segment | *held* on disk, shown; the others go on |
//!
//! A look compares the digest in the object's metadata with ours. It never compares sizes or ETags: another object of
//! the same size would be called ours, and a multipart ETag says nothing about bytes.
//!
//! # If we die
//!
//! What is saved is enough at any instant, because the bucket is asked wherever we can't know:
//!
//! - *Between Put and saving it:* the entry is still *sealed*. It is put again; 412; the look finds our digest.
//! - *Between CreateMultipart and saving the upload id:* the upload is forgotten, a new one is opened. The old one holds
//!   no object; the bucket's lifecycle rule for incomplete uploads removes it.
//! - *In the middle of parts:* after a restart the bucket's own list of parts replaces ours ([`step::Task::resume`]).
//!   Parts that it has are not sent again, parts that it lacks are, whatever we remember.
//! - *Between Complete and saving it:* the list gives `NoSuchUpload`; the look finds our digest.
//! - *A request that we gave up on lands late:* it carries the same bytes and the same condition. Either it comes first,
//!   and ours finds the name taken by our digest, or it comes second, and is refused.
//!
//! What has to be found out ([`step::Doubt`]) lives in memory only. Losing it costs a request.
//!
//! # Letting go
//!
//! Delivered isn't done: objects can be deleted, buckets restored, receivers set aside what they can't read. An entry
//! and its file go when [`receipt::read`] says *release*: this buffer delivered the segment, and a receipt has it
//! registered, vouched for by a digest that agrees with ours. All else only makes us look: a receipt that names it
//! missing, a day without a receipt, a receipt for something that we don't know as delivered. A receipt that shows that
//! someone else writes in our epoch is a *fork*: it deletes nothing, and a new epoch begins. A segment of ours whose
//! number it has under another digest, or that it has set aside as a second branch, can never be registered: its rows are
//! sealed again in the new epoch. What else the forked epoch sealed is kept and shown until a person decides, since nobody
//! here can tell whose was registered.
//!
//! # Deliberately absent
//!
//! No list of the bucket, no deletion, no abort of uploads: the gateway's policy needs none of them, and what it may
//! not do can't go wrong. No encoding: bytes are what sealing wrote. No retries inside the client: they would hide the
//! lost replies that this module is about. No word on what may go when: that is [`link`].

pub mod link;
pub mod answer;
pub mod classify;
pub mod backoff;
pub mod bucket;
pub mod step;
pub mod perform;
pub mod http;
pub mod credentials;
pub mod s3;
pub mod memory;
pub mod probe;
pub mod poll;
pub mod receipt;
pub mod desired;
