package difyexec;

import module java.base;

/// A library, loaded with `LD_PRELOAD`, that fails chosen calls on a folder or on one file: see `benchmarks/iofault.c`.
///
/// @param library compiled from it
record FaultyDisk(Path library) {
    private static final String COMPILER = Objects.requireNonNullElse(System.getenv("CC"), "gcc");

    static boolean isPossible() {
        try {
            return new ProcessBuilder(COMPILER, "--version").redirectErrorStream(true)
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor() == 0;
        } catch (IOException | InterruptedException _) {
            return false;
        }
    }

    static FaultyDisk compile(Path source, Path folder) throws IOException, InterruptedException {
        var library = folder.resolve("iofault.so");
        int exit = new ProcessBuilder(COMPILER, "-std=gnu17", "-O2", "-Wall", "-shared", "-fPIC", "-o",
                library.toString(), source.toString(), "-ldl").inheritIO().start().waitFor();
        if (exit != 0) throw new IllegalStateException(COMPILER + " cannot compile " + source);
        return new FaultyDisk(library);
    }

    /// The calls from the `from`-th on fail, up to the `until`-th; 0: all later ones fail.
    record Fault(String call, int from, int until, int errno) {}

    /// The environment of a process whose calls on `watched`, and on what is in it, fail. Each failed call adds a line
    /// to `report`.
    Map<String, String> environment(Path watched, Path report, Fault fault) {
        return Map.of("IOFAULT_FOLDER", watched.toString(), "IOFAULT_REPORT", report.toString(),
                "IOFAULT_CALL", fault.call(), "IOFAULT_FROM", "" + fault.from(), "IOFAULT_UNTIL", "" + fault.until(),
                "IOFAULT_ERRNO", "" + fault.errno());
    }

    /// Goes before a command, so that not also `nice` or a shell is affected.
    List<String> preload() {
        return List.of("env", "LD_PRELOAD=" + library);
    }
}
