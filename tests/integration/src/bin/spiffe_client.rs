//! What an agent's program does with the Rust `spiffe` crate: fetches everything once, and keeps a stream open. What comes of it is a
//! line each.

use std::error::Error;

use futures_core::Stream;
use spiffe::{TrustDomain, WorkloadApiClient};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run().await {
        println!("refused {}", all_of(&*error));
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let client = WorkloadApiClient::connect_env().await?;
    let context = client.fetch_x509_context().await?;
    let svid = context.default_svid().ok_or("no SVID")?;
    println!("x509 {}", svid.spiffe_id());
    let domain: &TrustDomain = svid.spiffe_id().trust_domain();
    let bundle = context.bundle_set().get(domain).ok_or("no bundle")?;
    println!("authorities {}", bundle.authorities().len());
    let token = client.fetch_jwt_svid(["reports"], None).await?;
    println!("jwt {} for {:?}", token.spiffe_id(), token.audience());
    let validated = client.validate_jwt_token("reports", token.token()).await?;
    println!("validated {}", validated.spiffe_id());
    let keys = client.fetch_jwt_bundles().await?;
    println!(
        "key {}",
        keys.get(domain).is_some_and(|keys| keys.find_jwt_authority(token.key_id()).is_some())
    );

    let mut updates = std::pin::pin!(client.stream_x509_contexts().await?);
    let mut next = async || std::future::poll_fn(|cx| updates.as_mut().poll_next(cx)).await;
    next().await.ok_or("the stream ended at once")??;
    println!("open");
    match next().await {
        Some(Err(error)) => println!("ended {}", all_of(&error)),
        other => println!("went on: {}", other.is_some()),
    }
    client.fetch_x509_svid().await?;
    Ok(())
}

fn all_of(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}
