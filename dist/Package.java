///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//DESCRIPTION Builds difyexec.jar, and an archive with its own Java for the system that it runs on.
//DEPS info.picocli:picocli:4.7.7
//DEPS org.apache.commons:commons-compress:1.28.0

package difyexec;

import org.apache.commons.compress.archivers.*;
import org.apache.commons.compress.archivers.tar.*;
import org.apache.commons.compress.archivers.zip.ZipArchiveOutputStream;
import org.apache.commons.compress.compressors.gzip.GzipCompressorOutputStream;
import picocli.CommandLine;
import picocli.CommandLine.*;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;

/// Builds what a release offers for download: `difyexec.jar`, which needs a Java 25, and
/// `difyexec-VERSION-SYSTEM-ARCH.tar.gz` (on Windows `.zip`), which brings its own; beside them a
/// bill of materials and `SHA256SUMS`.
///
/// ```
/// DifyExec.java ──JBang──▶ jar ──jdeps──▶ modules ──jlink──▶ runtime ──┐
///                           └───────────────────────────────────────────┴──▶ folder ──▶ archive
/// ```
///
/// Every step is in Java, so that one program builds the archives of all systems.
@Command(name = "package", mixinStandardHelpOptions = true,
        description = "Build difyexec.jar and an archive with its own Java for this system.")
final class Package implements Callable<Integer> {
    /// Libraries name these modules for functions that difyexec does not use: Jackson and opencsv
    /// handle beans, commons-text runs scripts. `java.desktop` alone has 25 MB.
    private static final Set<String> NOT_USED = Set.of("java.desktop", "java.scripting");

    /// No class names this module, but `--encoding Shift_JIS` needs it.
    private static final Set<String> BY_NAME = Set.of("jdk.charsets");

    private static final String BOM_GOAL = "org.cyclonedx:cyclonedx-maven-plugin:2.9.3:makeBom";

    private static final boolean WINDOWS = File.separatorChar == '\\';

    @Parameters(arity = "0..1", paramLabel = "VERSION",
            description = "The version that is expected, such as the name of a tag (default: any).")
    String expected = "";

    @Option(names = "--into", paramLabel = "DIR", description = "Write the files here (default: the current folder).")
    Path target = Path.of("");

    private final Path checkout = checkout();

    static void main(String... args) {
        System.exit(new CommandLine(new Package()).execute(args));
    }

    @Override
    public Integer call() throws Exception {
        var version = version();
        if (!expected.isEmpty() && !expected.equals(version) && !expected.equals("v" + version))
            throw new ParameterException(new CommandLine(this), "this is difyexec " + version + ", not " + expected);

        Files.createDirectories(target.toAbsolutePath());
        var jar = target.resolve("difyexec.jar");
        buildJar(jar);
        var work = Files.createTempDirectory("difyexec-package");
        try {
            var bom = target.resolve("difyexec.cdx.json");
            writeBom(bom, work.resolve("project"));
            var folder = work.resolve(String.join("-", "difyexec", version, system(), arch()));
            fill(folder, jar);
            Files.copy(bom, folder.resolve("difyexec.cdx.json"));
            var archive = target.resolve(folder.getFileName() + (WINDOWS ? ".zip" : ".tar.gz"));
            pack(folder, archive);
            var files = List.of(jar, bom, archive);
            writeChecksums(files);
            for (var file : files) System.out.printf(Locale.ROOT, "%s: %.1f MB%n", file, Files.size(file) / 1e6);
            System.out.printf(Locale.ROOT, "unpacked: %.1f MB%n", size(folder) / 1e6);
        } finally {
            delete(work);
        }
        return 0;
    }

    /// Returns the folder of `DifyExec.java`. The launcher passes it on; JBang alone does not.
    private static Path checkout() {
        var home = Path.of(Objects.requireNonNullElse(System.getenv("DIFYEXEC_HOME"), "")).toAbsolutePath();
        if (!Files.exists(home.resolve("DifyExec.java")))
            throw new IllegalStateException("run ./jbang package in the folder of DifyExec.java, not in " + home);
        return home;
    }

    private String version() throws IOException {
        return directives("GAV").getFirst().replaceFirst(".*:", "");
    }

    /// Returns what follows a directive of `DifyExec.java`, such as `//RUNTIME_OPTIONS -Xmn16m`.
    private List<String> directives(String name) throws IOException {
        try (var lines = Files.lines(checkout.resolve("DifyExec.java"))) {
            return lines.takeWhile(line -> !line.startsWith("package "))
                    .filter(line -> line.startsWith("//" + name + " "))
                    .map(line -> line.substring(name.length() + 3)).toList();
        }
    }

    // ── The jar ──────────────────────────────────────────────────────────────

    /// Lets JBang build a jar with all libraries. JBang leaves out the `//MANIFEST` of a script, and
    /// keeps the module descriptor of one library, which says nothing of the others.
    private void buildJar(Path jar) throws Exception {
        run(new ProcessBuilder(jbang(), "export", "fatjar", "--force", "-O", jar.toAbsolutePath().toString(),
                checkout.resolve("DifyExec.java").toString()));
        try (var content = FileSystems.newFileSystem(jar)) {
            List<Path> descriptors;
            try (var files = Files.find(content.getPath("/"), 5, (file, _) -> file.endsWith("module-info.class"))) {
                descriptors = files.toList();
            }
            for (var descriptor : descriptors) Files.delete(descriptor);
            addToManifest(content.getPath("META-INF/MANIFEST.MF"));
        }
    }

    private static String jbang() {
        return Objects.requireNonNullElse(System.getenv("JBANG_LAUNCH_CMD"), WINDOWS ? "jbang.cmd" : "jbang");
    }

    private void addToManifest(Path file) throws IOException {
        var manifest = new Manifest();
        try (var in = Files.newInputStream(file)) {
            manifest.read(in);
        }
        for (var entry : directives("MANIFEST")) {
            var parts = entry.split("=", 2);
            manifest.getMainAttributes().putValue(parts[0], parts[1]);
        }
        try (var out = Files.newOutputStream(file)) {
            manifest.write(out);
        }
    }

    // ── The bill of materials ────────────────────────────────────────────────

    /// Lists the jar's libraries with their licences and checksums, as CycloneDX. Maven prefers other
    /// versions of indirect libraries than JBang, so its project names all that the jar contains.
    private void writeBom(Path file, Path project) throws Exception {
        // JBang writes some files into a folder of the same name in the current one
        run(new ProcessBuilder(jbang(), "export", "maven", "--force", "-O", project.toString(),
                checkout.resolve("DifyExec.java").toString()).directory(project.getParent().toFile()));
        var pom = project.resolve("pom.xml");
        Files.writeString(pom, Files.readString(pom).replaceFirst("<dependencies>", Matcher.quoteReplacement(
                "<dependencyManagement><dependencies>" + String.join("", libraries())
                        + "</dependencies></dependencyManagement>\n<dependencies>")));
        run(new ProcessBuilder(WINDOWS ? "mvn.cmd" : "mvn", "-q", "-B", "-f", pom.toString(), BOM_GOAL,
                "-DoutputFormat=json"));
        Files.copy(project.resolve("target/bom.json"), file, StandardCopyOption.REPLACE_EXISTING);
    }

    /// Returns the libraries of the jar as Maven's elements, from their paths in JBang's list such as
    /// `…/repository/commons-io/commons-io/2.22.0/commons-io-2.22.0.jar`.
    private List<String> libraries() throws Exception {
        var process = new ProcessBuilder(jbang(), "info", "tools", checkout.resolve("DifyExec.java").toString())
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        var list = new String(process.getInputStream().readAllBytes(), UTF_8).replace("\\\\", "/");
        if (process.waitFor() != 0) throw new IllegalStateException("jbang info tools: " + list);
        return Pattern.compile("\"[^\"]*/repository/([^\"]+)/([^\"/]+)/([^\"/]+)/[^\"/]+\\.jar\"").matcher(list).results()
                .map(path -> "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>"
                        .formatted(path.group(1).replace('/', '.'), path.group(2), path.group(3))).toList();
    }

    // ── The folder ───────────────────────────────────────────────────────────

    /// Fills the folder that becomes the archive: programs in `bin`, the jar and Java's options in
    /// `lib`, Java in `runtime`, and what a user reads.
    private void fill(Path folder, Path jar) throws Exception {
        for (var each : List.of("bin", "lib", "docs", "benchmarks")) Files.createDirectories(folder.resolve(each));
        Files.copy(jar, folder.resolve("lib/difyexec.jar"));
        Files.write(folder.resolve("lib/java-options"), directives("RUNTIME_OPTIONS"));
        var start = WINDOWS ? "difyexec.cmd" : "difyexec";
        Files.copy(checkout.resolve("dist").resolve(start), folder.resolve("bin").resolve(start));
        // the last two, because pages link to them
        for (var page : List.of("README.md", "LICENSE", "LIBRARIES.md", "CHANGELOG.md", "SECURITY.md", ".env.example",
                "CONTRIBUTING.md", "benchmarks/README.md")) Files.copy(checkout.resolve(page), folder.resolve(page));
        try (var pages = Files.list(checkout.resolve("docs"))) {
            for (var page : pages.filter(page -> page.toString().matches(".*\\.(md|png|svg)")).toList())
                Files.copy(page, folder.resolve("docs").resolve(page.getFileName().toString()));
        }
        copyTree(checkout.resolve("examples"), folder.resolve("examples"));
        buildRuntime(jar, folder.resolve("runtime"));
    }

    /// Links a Java runtime with the modules that the jar needs. A class data archive for Java's own
    /// classes comes along; one for the tool's classes is made at the first start, because it
    /// would double the size of the download.
    private void buildRuntime(Path jar, Path runtime) throws IOException {
        var modules = new TreeSet<>(List.of(tool("jdeps", "--print-module-deps", "--ignore-missing-deps",
                "--multi-release", "" + Runtime.version().feature(), jar.toString()).strip().split(",")));
        modules.removeAll(NOT_USED);
        modules.addAll(BY_NAME);
        tool("jlink", "--add-modules", String.join(",", modules), "--strip-java-debug-attributes", "--no-header-files",
                "--no-man-pages", "--compress", "zip-6", "--generate-cds-archive", "--output", runtime.toString());
        // a second archive of 13 MB, for heaps of more than 32 GB
        Files.deleteIfExists(runtime.resolve(WINDOWS ? "bin/server" : "lib/server").resolve("classes_nocoops.jsa"));
        System.out.println("modules: " + String.join(" ", modules));
    }

    private static String tool(String name, String... args) {
        var out = new StringWriter();
        int code = ToolProvider.findFirst(name).orElseThrow(() -> new IllegalStateException(
                name + " is missing: use a JDK, not a runtime")).run(new PrintWriter(out, true),
                        new PrintWriter(System.err, true), args);
        if (code != 0) throw new IllegalStateException(name + " failed: " + out);
        return out.toString();
    }

    // ── The archive ──────────────────────────────────────────────────────────

    private static void pack(Path folder, Path archive) throws IOException {
        try (var file = new BufferedOutputStream(Files.newOutputStream(archive))) {
            if (WINDOWS) addAll(folder, new ZipArchiveOutputStream(file));
            else {
                var tar = new TarArchiveOutputStream(new GzipCompressorOutputStream(file), UTF_8.name());
                tar.setLongFileMode(TarArchiveOutputStream.LONGFILE_POSIX);
                tar.setBigNumberMode(TarArchiveOutputStream.BIGNUMBER_POSIX); // user ids of companies are large
                addAll(folder, tar);
            }
        }
    }

    private static <E extends ArchiveEntry> void addAll(Path folder, ArchiveOutputStream<E> stream)
            throws IOException {
        try (var out = stream; var files = Files.walk(folder)) {
            for (var file : files.filter(Files::isRegularFile).sorted().toList()) {
                var name = folder.getParent().relativize(file).toString().replace(File.separatorChar, '/');
                var entry = out.createArchiveEntry(file, name);
                if (entry instanceof TarArchiveEntry tar) {
                    tar.setIds(0, 0);
                    tar.setCreationTime(null); // GNU tar warns of this field in every file
                    tar.setNames("root", "root");
                    if (Files.isExecutable(file)) tar.setMode(0100755);
                }
                out.putArchiveEntry(entry);
                Files.copy(file, out);
                out.closeArchiveEntry();
            }
        }
    }

    /// Writes the lines that `sha256sum -c` reads.
    private void writeChecksums(List<Path> files) throws Exception {
        var lines = new StringBuilder();
        for (var file : files) {
            var digest = MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(file));
            lines.append(HexFormat.of().formatHex(digest)).append("  ").append(file.getFileName()).append('\n');
        }
        Files.writeString(target.resolve("SHA256SUMS"), lines);
    }

    private static String system() {
        var name = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        return WINDOWS ? "windows" : name.startsWith("mac") ? "macos" : name.replace(' ', '-');
    }

    private static String arch() {
        var name = System.getProperty("os.arch");
        return name.equals("amd64") ? "x86_64" : name;
    }

    // ── Files ────────────────────────────────────────────────────────────────

    private static void run(ProcessBuilder command) throws Exception {
        int code = command.inheritIO().start().waitFor();
        if (code != 0) throw new IllegalStateException(String.join(" ", command.command()) + " ended with " + code);
    }

    private static void copyTree(Path from, Path to) throws IOException {
        try (var files = Files.walk(from)) {
            for (var file : files.toList()) Files.copy(file, to.resolve(from.relativize(file).toString()));
        }
    }

    private static long size(Path folder) throws IOException {
        try (var files = Files.walk(folder)) {
            return files.filter(Files::isRegularFile).mapToLong(file -> file.toFile().length()).sum();
        }
    }

    private static void delete(Path folder) throws IOException {
        try (var files = Files.walk(folder)) {
            for (var file : files.sorted(Comparator.reverseOrder()).toList()) Files.delete(file);
        }
    }
}
