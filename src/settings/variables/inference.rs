//! Where and how inference runs.

use super::{Variable, row};
use crate::models::ComputeType;
use crate::settings::read::{device, number};

pub const ROWS: &[Variable] = &[
    row("DEVICE", "auto", "cpu, cuda, vulkan or auto.", device),
    row("DEVICE_INDEX", "0", "Which GPU.", |s, v| {
        s.device_index = number(v, 0, 255, "a whole number from 0 to 255")?;
        Ok(())
    }),
    row(
        "COMPUTE_TYPE",
        "",
        "How weights are stored: float32, float16, int8, q5_1 ….",
        |s, v| {
            s.compute_type = Some(
                v.parse::<ComputeType>()
                    .map_err(|error| error.to_string())?,
            );
            Ok(())
        },
    ),
    row(
        "MAX_CONCURRENCY",
        "",
        "Most pieces of audio in inference at once; empty: one for each worker.",
        |s, v| {
            let most = number(v, 1, 1001, "a whole number from 1 to 1001")?;
            s.max_concurrency = Some(most);
            Ok(())
        },
    ),
];
