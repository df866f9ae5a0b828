package difyexec;

import com.sun.source.tree.*;
import com.sun.source.util.*;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.*;
import org.junit.jupiter.params.provider.*;

import javax.lang.model.element.*;
import javax.lang.model.type.*;
import javax.tools.*;

import module java.base;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// Checks the laws and the limits of `DifyExec.java` on the compiler's trees. Class files would not do, because
/// the compiler inlines constants.
final class MapTest {

    /// `DifyExec.java` as the compiler sees it. Walks the tree once and collects everything that the laws need.
    static final class SourceMap extends TreePathScanner<Void, Void> {
        private static final Pattern COLLECTION = Pattern.compile(
                "^java\\.util\\.(?!Optional|function|regex|Locale|UUID|Iterator\\b)\\w+");

        /// A declaration directly inside the outermost class.
        record Member(String name, String section, boolean isType) {}

        /// @param nested     conditionals inside another one
        /// @param lambdas    how deep lambdas are nested
        /// @param hasComment whether it has a doc or a comment inside
        record Method(String name, String section, int parameters, int lines, int conditionals, int nested, int lambdas,
                boolean hasComment) {}

        final String text;
        /// The line that each section starts at, in the file's order.
        final Map<String, Integer> sections = new LinkedHashMap<>(Map.of("Head", 1));
        final List<Member> members = new ArrayList<>();
        final List<Method> methods = new ArrayList<>();
        /// Sentences with the declarations or the line.
        final Set<String> upward = new TreeSet<>(), privateUses = new TreeSet<>();
        /// Fields that are not final, or hold a collection that can be changed, and who else uses them.
        final Set<String> openFields = new TreeSet<>();
        final List<String> catchAlls = new ArrayList<>();
        private final CompilationUnitTree unit;
        private final Trees trees;
        private final List<String> lines;
        private final List<String> order;
        /// The section of each declaration directly inside the outermost class; empty: not in this file.
        private final Map<Element, String> sectionOf = new HashMap<>();
        /// The declarations that enclose the current place: the outermost class, its member, the innermost type.
        private final Deque<TypeElement> enclosing = new ArrayDeque<>();
        private Element member;

        SourceMap(String text) throws IOException {
            this.text = text;
            lines = text.lines().toList();
            var rule = Pattern.compile("    // ── (\\S.*?) ─+");
            for (int line = 0; line < lines.size(); line++) {
                var match = rule.matcher(lines.get(line));
                if (match.matches()) sections.put(match.group(1), line + 1);
            }
            order = List.copyOf(sections.keySet());
            var task = compiler(text, "-classpath", System.getProperty("java.class.path"));
            unit = task.parse().iterator().next();
            task.analyze();
            trees = Trees.instance(task);
            scan(unit, null);
        }

        /// Returns the share of comment lines in all lines, in percent.
        double commentShare() {
            return 100.0 * lines.stream().filter(line -> line.strip().startsWith("//")).count() / lines.size();
        }

        List<Integer> longLines() {
            return IntStream.rangeClosed(1, lines.size()).filter(line -> lines.get(line - 1).length() > 120).boxed()
                    .toList();
        }

        /// Counts the lines that are neither blank nor a comment.
        long codeLines() {
            return lines.stream().filter(line -> !line.isBlank() && !line.strip().startsWith("//")).count();
        }

        /// Every tree passes here before it is visited.
        @Override
        public Void scan(Tree tree, Void nothing) {
            switch (tree) {
                case IdentifierTree _, MemberSelectTree _, MemberReferenceTree _, NewClassTree _ -> use(tree);
                case SwitchTree choice -> cases(choice, choice.getExpression(), choice.getCases());
                case SwitchExpressionTree choice -> cases(choice, choice.getExpression(), choice.getCases());
                case null, default -> {}
            }
            return super.scan(tree, nothing);
        }

        @Override
        public Void visitClass(ClassTree tree, Void nothing) {
            var element = (TypeElement) trees.getElement(getCurrentPath());
            if (tree.getSimpleName().isEmpty()) return super.visitClass(tree, nothing); // anonymous: part of its method
            enclosing.push(element);
            if (enclosing.size() > 1) super.visitClass(tree, nothing);
            else for (var part : tree.getMembers()) {
                member = trees.getElement(new TreePath(getCurrentPath(), part));
                if (member != null) members.add(new Member(member.getSimpleName().toString(), section(part),
                        part instanceof ClassTree));
                scan(part, nothing);
            }
            enclosing.pop();
            return null;
        }

        @Override
        public Void visitMethod(MethodTree tree, Void nothing) {
            var element = trees.getElement(getCurrentPath());
            boolean isWritten = trees.getSourcePositions().getEndPosition(unit, tree) > start(tree)
                    && !(tree.getName().contentEquals("<init>") && isGenerated(element));
            if (isWritten) {
                int first = line(start(tree)), last = line(trees.getSourcePositions().getEndPosition(unit, tree));
                var density = new Density();
                density.scan(tree.getBody(), null);
                methods.add(new Method(name(element.getEnclosingElement()) + "." + tree.getName(),
                        section(tree), tree.getParameters().size(), last - first + 1, density.conditionals,
                        density.nested, density.deepest, hasComment(first, last)));
            }
            return super.visitMethod(tree, nothing);
        }

        private boolean hasComment(int first, int last) {
            return lines.get(first - 2).strip().startsWith("///")
                    || lines.subList(first - 1, last).stream().anyMatch(text -> text.matches(".*(^|\\s)//.*"));
        }

        /// Counts the conditional operators of a method and how deep its lambdas are nested.
        private static final class Density extends TreeScanner<Void, Void> {
            int conditionals = 0, nested = 0, deepest = 0;
            private int inside = 0, depth = 0;

            @Override
            public Void visitConditionalExpression(ConditionalExpressionTree tree, Void nothing) {
                conditionals++;
                if (inside > 0) nested++;
                inside++;
                super.visitConditionalExpression(tree, nothing);
                inside--;
                return null;
            }

            @Override
            public Void visitLambdaExpression(LambdaExpressionTree tree, Void nothing) {
                deepest = Math.max(deepest, ++depth);
                super.visitLambdaExpression(tree, nothing);
                depth--;
                return null;
            }
        }

        /// Returns whether the compiler added this constructor. That of a record has the position of its type.
        private boolean isGenerated(Element element) {
            var tree = trees.getTree(element.getEnclosingElement());
            return tree != null && start(tree) == start(trees.getTree(element));
        }

        private void cases(Tree choice, ExpressionTree selector, List<? extends CaseTree> cases) {
            var path = new TreePath(getCurrentPath(), choice);
            var type = trees.getTypeMirror(new TreePath(path, selector));
            if (!isOurSealed(type)) return;
            for (var one : cases) for (var label : one.getLabels()) {
                boolean isAny = label instanceof DefaultCaseLabelTree || one.getGuard() == null
                        && label instanceof PatternCaseLabelTree pattern
                        && pattern.getPattern() instanceof BindingPatternTree binding
                        && isOurSealed(trees.getElement(new TreePath(path, binding.getVariable())).asType());
                if (isAny) catchAlls.add("line " + line(start(one)) + ": " + type);
            }
        }

        private boolean isOurSealed(TypeMirror type) {
            return type instanceof DeclaredType declared && declared.asElement() instanceof TypeElement element
                    && element.getModifiers().contains(Modifier.SEALED) && topMember(element).isPresent();
        }

        private void use(Tree tree) {
            if (enclosing.isEmpty() || member == null || start(tree) < 0) return;
            var used = trees.getElement(new TreePath(getCurrentPath(), tree));
            var target = used == null ? Optional.<Element>empty() : topMember(used);
            if (target.isEmpty() || sectionOf(target.get()).isEmpty()) return;
            var from = sectionOf(member);
            var to = sectionOf(target.get());
            if (order.indexOf(from) > order.indexOf(to)) upward.add(from + ", " + member.getSimpleName() + " → " + to
                    + ", " + target.get().getSimpleName());
            var owner = used.getEnclosingElement();
            boolean isPrivate = used.getModifiers().contains(Modifier.PRIVATE) && !(used instanceof TypeElement)
                    && !owner.getSimpleName().isEmpty() // an anonymous type is part of its method
                    && !(isConstructor(used) && owner.getModifiers().contains(Modifier.PRIVATE));
            if (isOpen(used) && !topMember(used).equals(topMember(enclosing.peek())))
                openFields.add(name(owner) + "." + used.getSimpleName() + " used by " + name(enclosing.peek()));
            if (isPrivate && !enclosing.contains(owner)) privateUses.add(name(owner) + "."
                    + used.getSimpleName() + " used by " + name(enclosing.peek()));
        }

        /// Returns whether a field can be changed: it is not final, or holds a collection that is not a record's.
        /// Options do not count, because picocli sets them.
        private static boolean isOpen(Element used) {
            if (used.getKind() != ElementKind.FIELD || used.getModifiers().contains(Modifier.STATIC)) return false;
            if (used.getEnclosingElement().getKind() == ElementKind.RECORD) return false;
            boolean isOption = used.getAnnotationMirrors().stream()
                    .anyMatch(mark -> mark.getAnnotationType().toString().startsWith("picocli."));
            if (isOption) return false;
            return !used.getModifiers().contains(Modifier.FINAL) || COLLECTION.matcher(used.asType().toString()).find();
        }

        private static boolean isConstructor(Element element) {
            return element.getSimpleName().contentEquals("<init>");
        }

        /// Returns the declaration directly inside the outermost class that an element belongs to.
        private static Optional<Element> topMember(Element element) {
            for (var at = element; at != null; at = at.getEnclosingElement())
                if (at.getEnclosingElement() instanceof TypeElement outer
                        && outer.getQualifiedName().contentEquals("difyexec.DifyExec")) return Optional.of(at);
            return Optional.empty();
        }

        private static String name(Element element) {
            return element.toString().replaceFirst("^difyexec\\.(DifyExec\\.)?", "");
        }

        private String sectionOf(Element element) {
            return sectionOf.computeIfAbsent(element, key ->
                    Optional.ofNullable(trees.getTree(key)).map(this::section).orElse(""));
        }

        private String section(Tree tree) {
            int line = line(start(tree));
            return order.reversed().stream().filter(name -> sections.get(name) <= line).findFirst().orElseThrow();
        }

        private long start(Tree tree) {
            return trees.getSourcePositions().getStartPosition(unit, tree);
        }

        private int line(long position) {
            return (int) unit.getLineMap().getLineNumber(position);
        }
    }

    static JavacTask compiler(String source, String... options) {
        var file = new SimpleJavaFileObject(URI.create("string:///DifyExec.java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return source;
            }
        };
        return (JavacTask) ToolProvider.getSystemJavaCompiler().getTask(Writer.nullWriter(), null, _ -> {},
                List.of(WholeCommand.words(List.of("-proc:none"), options)), null, List.of(file));
    }

    static String source() throws IOException {
        try (var packed = MapTest.class.getResourceAsStream("/DifyExec.java")) {
            return packed != null ? new String(packed.readAllBytes(), UTF_8)
                    : Files.readString(Stream.of("DifyExec.java", "../DifyExec.java").map(Path::of)
                            .filter(Files::isRegularFile).findFirst().orElseThrow());
        }
    }

    public static void main(String... args) throws IOException {
        var map = new SourceMap(source());
        var ends = new ArrayList<>(map.sections.values());
        ends.add(map.lines.size() + 1);
        IO.println("section        lines  types  methods");
        for (int at = 0; at < map.order.size(); at++) {
            var section = map.order.get(at);
            IO.println("%-13s %6d %6d %8d".formatted(section, ends.get(at + 1) - ends.get(at),
                    map.members.stream().filter(part -> part.isType() && part.section().equals(section)).count(),
                    map.methods.stream().filter(method -> method.section().equals(section)).count()));
        }
        IO.println("lines: %d; code lines: %d; comment lines: %.1f %%".formatted(map.lines.size(), map.codeLines(),
                map.commentShare()));
        for (var law : laws(map)) {
            IO.println("\n" + law + ": " + law.places().size() + " (at most " + law.most() + ")");
            law.places().forEach(place -> IO.println("  " + place));
        }
    }

    /// @param places where the law is broken
    record Law(String name, int most, List<String> places) {
        static Law of(String name, int most, Collection<?> places) {
            return new Law(name, most, places.stream().map(Object::toString).toList());
        }

        static Law ofMethods(String name, int most, SourceMap map, Predicate<SourceMap.Method> breaksIt) {
            return of(name, most, map.methods.stream().filter(breaksIt).toList());
        }

        @Override
        public String toString() {
            return name;
        }
    }

    private static List<Law> laws(SourceMap map) {
        var nested = map.methods.stream().flatMap(method -> Collections.nCopies(method.nested(), method).stream());
        return List.of(Law.of("references that point up", 0, map.upward),
                Law.of("catch-alls over our sealed types", 0, map.catchAlls),
                Law.of("private members used by another type", 0, map.privateUses),
                Law.of("fields that can change, used by another type", 0, map.openFields),
                Law.of("conditionals inside another one", 8, nested.toList()),
                Law.ofMethods("methods with three or more conditionals", 6, map, method -> method.conditionals() > 2),
                Law.ofMethods("methods with lambdas nested three deep", 1, map, method -> method.lambdas() > 2),
                Law.ofMethods("methods of 15 lines or more without any comment", 10, map,
                        method -> method.lines() >= 15 && !method.hasComment()),
                Law.ofMethods("methods with more than four parameters", 15, map, method -> method.parameters() > 4),
                Law.ofMethods("methods longer than 60 lines", 0, map, method -> method.lines() > 60),
                Law.of("lines over 120 columns", 0, map.longLines()));
    }

    @Nested
    class TheMap {
        private static SourceMap map;

        @BeforeAll
        static void read() throws IOException {
            map = new SourceMap(source());
        }

        @Test
        void findsTheTypesAndMethodsOfTheSource() {
            assertTrue(map.members.size() > 50 && map.methods.size() > 500, map.members.size() + " members");
        }

        static List<Law> laws() {
            return MapTest.laws(map);
        }

        @ParameterizedTest(name = "{0}")
        @MethodSource("laws")
        void findsNoMoreViolationsOfALawThanAllowed(Law law) {
            assertTrue(law.places().size() <= law.most(), law.places()::toString);
        }

        @Test
        void findsEnoughCommentsInTheSource() {
            assertTrue(map.commentShare() >= 8.5, map.commentShare() + " % comments");
        }

        @Test
        void findsNoMoreCodeLinesThanAllowed() {
            assertTrue(map.codeLines() <= 12_090, map.codeLines() + " code lines");
        }
    }
}
