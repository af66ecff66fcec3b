//! Device, data type and concurrency of inference.

use super::{Variable, row};
use crate::models::ComputeType;
use crate::settings::read::{device, number};

pub const ROWS: &[Variable] = &[
    row("DEVICE", "auto", "cpu, cuda, vulkan or auto.", device),
    row("DEVICE_INDEX", "0", "Index of the GPU.", |s, v| {
        s.device_index = number(v, 0, 255, "a whole number from 0 to 255")?;
        Ok(())
    }),
    row(
        "COMPUTE_TYPE",
        "",
        "Data type of the weights: float32, float16, int8, q5_1 ….",
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
        "Maximum number of chunks in inference at once. Lowers the number of workers, never raises it; empty: one per worker.",
        |s, v| {
            let most = number(v, 1, 1001, "a whole number from 1 to 1001")?;
            s.max_concurrency = Some(most);
            Ok(())
        },
    ),
];
