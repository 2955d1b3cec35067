//! How a filter says what it leaves to the device beneath it.

/// Methods of [`Device`](crate::Device) that a filter leaves to a field of its own, by their names: stands inside of the
/// filter's `impl Device`, and is followed by those that it has itself.
///
/// What is not named and not written is missing, so nothing passes by unseen. [`plain`](crate::Device::plain) alone has a
/// meaning if it is left out: nobody copies past the filter.
///
/// ```
/// use std::sync::Arc;
/// use cohort_block::{Device, DeviceError, MemoryDevice, Operation, forward};
///
/// /// A disk whose writes are refused.
/// #[derive(Debug)]
/// struct Sealed(Arc<dyn Device>);
///
/// impl Device for Sealed {
///     forward!(0: name, size, read_at, write_zeroes, discard, flush, extent, plain);
///
///     fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), DeviceError> {
///         let cause = std::io::Error::other("it is sealed");
///         Err(DeviceError::new(self.name(), Operation::Write, offset, buf.len() as u64, cause))
///     }
/// }
///
/// let sealed = Sealed(Arc::new(MemoryDevice::with_bytes("m", &[7; 512])));
/// let mut byte = [0];
/// sealed.read_at(&mut byte, 100)?;
/// assert_eq!((byte, sealed.size(), sealed.name()), ([7], 512, "m"));
/// assert!(sealed.write_at(&byte, 0).is_err());
/// # Ok::<(), DeviceError>(())
/// ```
#[macro_export]
macro_rules! forward {
    ($field:tt: $($method:ident),+) => {
        $($crate::forward!(@ $field $method);)+
    };
    (@ $field:tt name) => {
        fn name(&self) -> &str {
            self.$field.name()
        }
    };
    (@ $field:tt size) => {
        fn size(&self) -> u64 {
            self.$field.size()
        }
    };
    (@ $field:tt read_at) => {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), $crate::DeviceError> {
            self.$field.read_at(buf, offset)
        }
    };
    (@ $field:tt write_at) => {
        fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), $crate::DeviceError> {
            self.$field.write_at(buf, offset)
        }
    };
    (@ $field:tt write_zeroes) => {
        fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), $crate::DeviceError> {
            self.$field.write_zeroes(offset, length)
        }
    };
    (@ $field:tt discard) => {
        fn discard(&self, offset: u64, length: u64) -> Result<(), $crate::DeviceError> {
            self.$field.discard(offset, length)
        }
    };
    (@ $field:tt flush) => {
        fn flush(&self) -> Result<(), $crate::DeviceError> {
            self.$field.flush()
        }
    };
    (@ $field:tt extent) => {
        fn extent(&self, offset: u64, length: u64) -> Result<$crate::Extent, $crate::DeviceError> {
            self.$field.extent(offset, length)
        }
    };
    (@ $field:tt plain) => {
        fn plain(&self, offset: u64, length: u64) -> Option<$crate::Plain> {
            self.$field.plain(offset, length)
        }
    };
}
