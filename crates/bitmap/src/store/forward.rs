//! How a file over another file says what it leaves to that one.

/// Methods of [`File`](crate::store::File) that are left to a field, by their names: stands inside of the `impl File`, and
/// is followed by those that are its own. `*` stands for what a pointer points to.
///
/// A method with a default that is neither named nor written has that default: no zeroes but those that are written, no
/// holes, nothing that the operating system copies by itself. So whoever watches or changes what is written names none
/// of those that would pass by him.
///
/// ```
/// use std::io;
/// use cohort_bitmap::{forward_file, store::File};
///
/// /// A file that cannot be written to.
/// #[derive(Debug)]
/// struct Sealed<F>(F);
///
/// impl<F: File> File for Sealed<F> {
///     forward_file!(0: read_at, sync_data, len, run_at);
///
///     fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
///         Err(io::Error::other("it is sealed"))
///     }
///
///     fn set_len(&self, _: u64) -> io::Result<()> {
///         Err(io::Error::other("it is sealed"))
///     }
/// }
///
/// fn may_be_read(file: impl File) -> io::Result<bool> {
///     let sealed = Sealed(file);
///     sealed.read_at(&mut [0; 4], 0)?;
///     Ok(sealed.write_zeroes(0, 4).is_err())
/// }
/// ```
#[macro_export]
macro_rules! forward_file {
    (*: $($method:ident),+ $(,)?) => {
        $($crate::forward_file!(@ $method self &**self);)+
    };
    ($field:tt: $($method:ident),+ $(,)?) => {
        $($crate::forward_file!(@ $method self &self.$field);)+
    };
    (@ read_at $self:ident $to:expr) => {
        fn read_at(&$self, buf: &mut [u8], offset: u64) -> ::std::io::Result<()> {
            $crate::store::File::read_at($to, buf, offset)
        }
    };
    (@ write_at $self:ident $to:expr) => {
        fn write_at(&$self, buf: &[u8], offset: u64) -> ::std::io::Result<()> {
            $crate::store::File::write_at($to, buf, offset)
        }
    };
    (@ sync_data $self:ident $to:expr) => {
        fn sync_data(&$self) -> ::std::io::Result<()> {
            $crate::store::File::sync_data($to)
        }
    };
    (@ len $self:ident $to:expr) => {
        fn len(&$self) -> ::std::io::Result<u64> {
            $crate::store::File::len($to)
        }
    };
    (@ set_len $self:ident $to:expr) => {
        fn set_len(&$self, length: u64) -> ::std::io::Result<()> {
            $crate::store::File::set_len($to, length)
        }
    };
    (@ write_zeroes $self:ident $to:expr) => {
        fn write_zeroes(&$self, offset: u64, length: u64) -> ::std::io::Result<()> {
            $crate::store::File::write_zeroes($to, offset, length)
        }
    };
    (@ discard $self:ident $to:expr) => {
        fn discard(&$self, offset: u64, length: u64) -> ::std::io::Result<()> {
            $crate::store::File::discard($to, offset, length)
        }
    };
    (@ push_out $self:ident $to:expr) => {
        fn push_out(&$self) {
            $crate::store::File::push_out($to);
        }
    };
    (@ descriptor $self:ident $to:expr) => {
        fn descriptor(&$self) -> Option<::std::os::fd::BorrowedFd<'_>> {
            $crate::store::File::descriptor($to)
        }
    };
    (@ copy_from $self:ident $to:expr) => {
        fn copy_from(&$self, source: &dyn $crate::store::File, from: u64, offset: u64, length: u64) -> bool {
            $crate::store::File::copy_from($to, source, from, offset, length)
        }
    };
    (@ run_at $self:ident $to:expr) => {
        fn run_at(&$self, offset: u64, length: u64) -> ::std::io::Result<$crate::store::FileRun> {
            $crate::store::File::run_at($to, offset, length)
        }
    };
}
