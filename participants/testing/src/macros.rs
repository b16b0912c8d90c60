//! What the macro's tests call.

use std::future::Future;

use tercet::action::Request;

use crate::{Database, Mode, Suite};

/// Makes a test of each name, which runs its [`Suite`]. The expression may await, and may give an `Option`: nothing is
/// tested where it is `None`, such as without a server.
///
/// ```text
/// conformance! {
///     reserve: stock().granting([reserve(1, 3)]).refusing([reserve(1, 9)]);
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    ($($(#[$attribute:meta])* $name:ident: $suite:expr);+ $(;)?) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                $crate::macros::run(async { $suite });
            }
        )+
    };
}

/// A suite, or none.
pub trait Subject {
    /// Runs it and prints what it did.
    fn check(self) -> impl Future<Output = ()>;
}

impl<Db: Database, M: Mode, R: Request> Subject for Suite<Db, M, R> {
    #[allow(clippy::print_stdout, reason = "a test's own output")]
    async fn check(self) {
        match Self::check(self).await {
            Ok(report) => println!("{report}"),
            Err(faults) => panic!("{faults}"),
        }
    }
}

impl<S: Subject> Subject for Option<S> {
    async fn check(self) {
        if let Some(suite) = self {
            suite.check().await;
        }
    }
}

/// Runs a suite on a runtime of its own.
///
/// # Panics
/// When the participant does not conform.
pub fn run<S: Subject>(suite: impl Future<Output = S>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async { suite.await.check().await });
}
